"""The transformer prior of faces: code maps of a stage-I network, 24 layers of width 1024.

    python train.py --config=configs/gpt_faces.py --workdir=runs/prior --config.teacher=runs/vqgan \
        --config.data.path=FFHQ_DIR --config.data.codes=CODES_DIR

`configs/gpt_faces.py:small` is for two CPU cores, over `configs/demo.py:vqgan`. Hardware: 306 M
parameters; one GPU of 80 GB holds batch 32 with `gpt.remat=full`; the published run took days.
Expected: `eval/bits_per_dim` well below `eval/bits_per_dim_sites`, the best that independent
sites can do, and `eval/bits_per_dim_uniform`, which is log2 of the codebook's size.
"""

import ml_collections
from ml_collections import config_dict

from configs import codeformer_stage2, demo, vqgan

SIZES = ("published", "small")


def get_config(size: str = "published") -> ml_collections.ConfigDict:
    if size not in SIZES:
        raise ValueError(f"configs/gpt_faces.py:{size}: expected one of {', '.join(SIZES)}")
    config = (vqgan.get_config() if size == "published" else demo.get_config("vqgan")).unlock()
    del config.discriminator
    del config.init_discriminator_from
    del config.codebook_init
    config.task = "gpt_prior"
    config.steps = 500_000
    # Kind of autoencoder, with its fields in `model`; PixelCNN also takes 'pixels'.
    config.prior_of = "vqgan"
    config.teacher = config_dict.placeholder(str)
    config.teacher_min_psnr = 18.0
    config.data.codes = config_dict.placeholder(str)

    config.gpt = ml_collections.ConfigDict()
    config.gpt.n_layer = 24  # Transformer layers.
    config.gpt.n_head = 16  # Attention heads.
    config.gpt.n_embd = 1024  # Width.
    config.gpt.block_size = config_dict.placeholder(int)  # Longest sequence; else as needed.
    config.gpt.dropout = 0.1  # Dropout rate.
    # Condition; 'codes' are those of the image degraded by `condition_recipe`.
    config.gpt.condition = "start"
    config.gpt.classes = 0  # Number of classes, for the condition 'class'.
    config.gpt.dtype = "float32"  # Dtype of the computation.
    config.gpt.remat = config_dict.placeholder(str)  # As `model.remat`.
    config.condition_recipe = "large"  # Degradation of a condition of codes.
    config.degradation = ml_collections.ConfigDict()
    config.degradation.large = codeformer_stage2.get_config().degradation.large

    config.loss = ml_collections.ConfigDict()
    config.loss.pkeep = 0.9  # Probability that an earlier code is shown unchanged.

    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.01
    config.optimizer.betas = (0.9, 0.95)
    config.optimizer.learning_rate = 1.44e-4  # 4.5e-6 per image
    config.optimizer.schedule = "cosine"
    config.optimizer.final_learning_rate = 1.44e-5
    config.optimizer.warmup_steps = 2_000
    config.optimizer.clip_norm = 1.0
    # Add samples to the pictures of an evaluation.
    config.eval.samples = True
    if size == "small":
        _shrink(config)
    return config.lock()


def _shrink(config: ml_collections.ConfigDict) -> None:
    """Values for 64 px faces on two CPU cores."""
    config.steps = 1_500
    config.eval_every = config.checkpoint_every = 250
    config.gpt.update(n_layer=4, n_head=4, n_embd=128)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.final_learning_rate = 1e-4
    config.optimizer.warmup_steps = 50
    config.degradation.large.update(blur_sigma=(1.0, 3.0), downsample=(2.0, 6.0))
