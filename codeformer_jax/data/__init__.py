"""Where pictures come from: image files, folders, synthetic faces, and the batches made of them."""
