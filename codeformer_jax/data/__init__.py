"""Sources of pictures: image files, folders, records, synthetic faces; and batches made of them."""
