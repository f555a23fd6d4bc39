"""Gated PixelCNN on the pixels of CIFAR-10 (arXiv 1606.05328): 256 levels of R, G and B.

    python train.py --config=configs/pixelcnn_cifar10.py --workdir=runs/pixelcnn_cifar10

The data are TFDS's, see `configs/vqvae_cifar10.py`; class-conditional with
--config.pixelcnn.classes=10. Hardware: one accelerator, a day or more. Published: 3.03 bits/dim on
the test set; this run has not been made by the authors.
"""

import ml_collections
from ml_collections import config_dict

from configs import pixelcnn_faces


def get_config() -> ml_collections.ConfigDict:
    config = pixelcnn_faces.get_config().unlock()
    config.prior_of = "pixels"
    config.steps = 200_000
    config.eval_every = config.checkpoint_every = 5_000
    config.model = ml_collections.ConfigDict({"precision": "default"})  # There is no other network.
    del config.teacher
    del config.teacher_min_psnr
    config.data.codes = config_dict.placeholder(str)
    config.data.path = "tfds:cifar10"
    config.data.image_size = 32
    config.data.batch_size = 128
    config.pixelcnn.layers = 15
    config.pixelcnn.features = 192
    config.pixelcnn.kernel = 5
    config.pixelcnn.head_features = 768
    config.pixelcnn.embed_dim = 1  # Not used: pixels come in as intensities.
    config.eval.samples = False
    config.eval.batches = 313  # Of 32: all 10,000 test pictures.
    return config.lock()
