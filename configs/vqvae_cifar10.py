"""VQ-VAE on CIFAR-10 at the paper's setting (arXiv 1711.00937): K = 512, d = 64, Adam 2e-4.

    python train.py --config=configs/vqvae_cifar10.py --workdir=runs/vqvae_cifar10

The data are TFDS's, prepared once (it downloads them):

    python -c "import tensorflow_datasets as tfds; \
        tfds.builder('cifar10', file_format='array_record').download_and_prepare()"

Hardware: one accelerator, 250 k steps of 128 pictures. Expected: the paper reports 4.67 bits/dim,
the likelihood of its model with ten maps of 8x8 codes; here is one map, 64 codes of at most 9 bits
for 3,072 values, and what is reported is the reconstruction's error and the codes' bits.
"""

import ml_collections
from ml_collections import config_dict

from configs import vqvae_faces


def get_config() -> ml_collections.ConfigDict:
    config = vqvae_faces.get_config().unlock()
    config.steps = 250_000
    config.eval_every = config.checkpoint_every = 5_000
    config.model.image_size = 32
    # The codebook is trained by its loss, as in the paper's experiments.
    config.model.ema_decay = config_dict.placeholder(float)
    config.data.path = "tfds:cifar10"
    config.data.image_size = 32
    config.data.batch_size = 128
    return config.lock()
