"""VQ-VAE on faces at 64 px, the network of the paper (arXiv 1711.00937): 16x16 codes of 512.

    python train.py --config=configs/vqvae_faces.py --workdir=runs/vqvae [--config.data.path=FACES]

Without a path these are the project's synthetic faces. Hardware: one accelerator;
`benchmarks/priors.py` trains a smaller one on two CPU cores. The codebook is a moving average whose
dead codes restart; --config.model.ema_decay=none trains it by its loss.
"""

import ml_collections
from ml_collections import config_dict

from configs import vqgan


def get_config() -> ml_collections.ConfigDict:
    config = vqgan.get_config().unlock()
    config.task = "vqvae"
    config.steps = 20_000
    config.ema_decay = 0.99
    config.eval_every = config.checkpoint_every = 1_000
    del config.discriminator
    del config.init_discriminator_from

    config.model = ml_collections.ConfigDict()
    config.model.image_size = 64
    config.model.hidden = 256  # VQ-VAE: channels of the hidden layers.
    config.model.res_blocks = 2
    config.model.codebook_size = 512
    config.model.emb_dim = 64
    config.model.beta = 0.25
    config.model.beta_on = "commitment"
    config.model.ema_decay = config_dict.placeholder(float)
    config.model.ema_decay = 0.99
    config.model.restart_below = 0.1
    config.model.dtype = "float32"
    config.model.precision = "default"

    config.loss = ml_collections.ConfigDict()
    config.loss.pixel_weight = 1.0

    config.optimizer.learning_rate = 2e-4
    config.optimizer.betas = (0.9, 0.999)
    config.optimizer.schedule = "constant"

    config.data.image_size = 64
    config.data.batch_size = 64
    config.data.workers = 0
    config.data.cache = True
    config.data.heldout_fraction = 0.05
    config.data.synthetic_length = 20_000
    config.eval.batch_size = 32
    return config.lock()
