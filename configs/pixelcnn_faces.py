"""Gated PixelCNN over the codes of faces, the prior of the VQ-VAE (arXiv 1711.00937, 1606.05328).

    python train.py --config=configs/pixelcnn_faces.py --workdir=runs/pixelcnn \
        --config.teacher=runs/vqvae [--config.data.path=FACES] [--config.data.codes=CODES]

The teacher is a run of `configs/vqvae_faces.py` on the same data. CODES are its codes, computed
once: `codeformer-jax encode runs/vqvae CODES`. With `configs/pixelcnn_faces.py:vqgan` it is a run
of `configs/vqgan.py` at 256 px. Of data in classes the prior is class-conditional with
--config.pixelcnn.classes=10. Hardware: one accelerator. Expected: fewer bits than the uniform and
the per-site distribution; docs/priors.md has what smaller ones reached.
"""

import ml_collections
from ml_collections import config_dict

from configs import vqgan, vqvae_faces


def get_config(prior_of: str = "vqvae") -> ml_collections.ConfigDict:
    if prior_of not in ("vqvae", "vqgan"):
        raise ValueError(
            f"configs/pixelcnn_faces.py:{prior_of} names no autoencoder; expected vqvae or vqgan"
        )
    config = vqvae_faces.get_config().unlock()
    if prior_of == "vqgan":
        config.model = vqgan.get_config().unlock().model
        config.model.image_size = config.data.image_size = 256
    config.task = "pixelcnn_prior"
    config.prior_of = prior_of
    config.steps = 50_000
    config.teacher = config_dict.placeholder(str)
    config.teacher_min_psnr = 18.0
    config.data.codes = config_dict.placeholder(str)
    config.ema_decay = 0.999
    del config.codebook_init

    config.pixelcnn = ml_collections.ConfigDict()
    config.pixelcnn.embed_dim = 64  # Channels of an embedded code.
    config.pixelcnn.layers = 12  # Gated layers.
    config.pixelcnn.features = 128  # Channels of a layer.
    config.pixelcnn.first_kernel = 7  # Side of the first convolution.
    config.pixelcnn.kernel = 3  # Side of the other convolutions.
    config.pixelcnn.head_features = 512  # Channels of the head.
    config.pixelcnn.classes = 0  # Number of classes; 0 is unconditional.
    config.pixelcnn.dtype = "float32"  # Dtype of the computation.

    config.loss = ml_collections.ConfigDict()

    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.final_learning_rate = 1e-5
    config.optimizer.warmup_steps = 500
    config.optimizer.clip_norm = 1.0
    config.eval.samples = True
    return config.lock()
