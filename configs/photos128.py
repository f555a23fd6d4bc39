"""The stages of the weights that ship with the package: 128 px, generated faces.

    python tools/photos128.py --faces FOLDER... --portraits FOLDER --work runs/photos128

trains STAGE in vqgan, code_prediction, restoration and finetuning, each with

    python train.py --config=configs/photos128.py:STAGE --workdir=WORK/STAGE \
        --config.init_from=WORK/PREVIOUS --config.data.path=WORK/data/train \
        --config.eval.path=WORK/data/heldout

The first stage takes no `init_from`.
Hardware: two CPU cores, an hour and a half. Scores: docs/model_card.md. No other trained network
takes part: there is no perceptual loss. `STAGE,short` takes a few steps of small networks.
"""

import ml_collections

from configs import codeformer_stage3, demo

STAGES = {**demo.STAGES, "finetuning": codeformer_stage3.get_config}
STEPS = {
    "full": {"vqgan": 1600, "code_prediction": 800, "restoration": 4800, "finetuning": 1800},
    "short": {"vqgan": 4, "code_prediction": 4, "restoration": 4, "finetuning": 4},
}


def get_config(argument: str = "vqgan,full") -> ml_collections.ConfigDict:
    stage, size = demo.stage_and_size("configs/photos128.py", argument, STEPS)
    config = STAGES[stage]().unlock()
    config.steps = STEPS[size][stage]
    config.ema_decay = 0.995
    config.log_every = 20 if size == "full" else 1
    config.eval_every = config.checkpoint_every = 200 if size == "full" else 2

    config.model.image_size = 128
    config.model.nf = 24
    config.model.ch_mult = (1, 2, 4, 4)
    config.model.res_blocks = 1
    config.model.norm_groups = 8
    config.model.codebook_size = 512
    config.model.emb_dim = 64
    config.model.ema_decay = 0.95
    config.model.restart_below = 0.1

    config.data.image_size = 128
    config.data.batch_size = 4
    config.data.workers = 0
    config.data.cache = True
    config.data.heldout_fraction = 0.0
    # Detectors misplace the points of degraded faces.
    config.data.turn = 6.0
    config.data.zoom = 0.08
    config.data.shift = 0.03
    config.eval.batch_size = 16
    config.eval.batches = 5

    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 8e-4
    config.optimizer.final_learning_rate = 4e-5
    config.optimizer.warmup_steps = 50
    config.optimizer.clip_norm = 1.0
    if stage != "code_prediction":
        config.discriminator.ndf = 24
        config.discriminator.n_layers = 3
        config.loss.perceptual_weight = 0.0
        config.loss.gan_weight = 0.1
        config.loss.gan_start = int(0.8 * config.steps)
    if stage != "vqgan":
        codes(config)
        config.teacher_min_psnr = 18.0 if size == "full" else 0.0
    if stage in ("restoration", "finetuning"):
        # No adversarial loss: the time is spent on fidelity.
        config.loss.gan_start = config.steps
        config.schedule = ({"until": 10**9, "w": 1.0, "recipe": "large", "image_losses": True},)
    if stage == "finetuning":
        finetuning(config)
    if size == "short":
        small(config)
    return config.lock()


def finetuning(config: ml_collections.ConfigDict) -> None:
    """Weights the pixels more: before, the cross entropy of the codes has most of the gradient."""
    config.loss.pixel_weight = 10.0
    config.ema_decay = 0.998
    config.optimizer.learning_rate = 4e-4
    config.optimizer.final_learning_rate = 4e-6


def codes(config: ml_collections.ConfigDict) -> None:
    """Transformer and degradations: trained on the large recipe, scored on the small one."""
    config.codeformer.dim_embd = 256
    config.codeformer.n_head = 8
    config.codeformer.n_layers = 4
    config.codeformer.connect_list = (32, 64, 128)
    config.degradation.large = {
        "blur_sigma": (0.1, 4.0),
        "downsample": (1.0, 8.0),
        "noise": (0.0, 20.0),
        "jpeg_quality": (30.0, 95.0),
        "anisotropic": 0.5,
    }
    config.degradation.small = {
        "blur_sigma": (0.5, 4.0),
        "downsample": (2.0, 8.0),
        "noise": (0.0, 20.0),
        "jpeg_quality": (35.0, 85.0),
        "anisotropic": 0.5,
    }
    config.eval.recipe = "small"


def small(config: ml_collections.ConfigDict) -> None:
    """Makes networks and evaluations small, to try the recipe."""
    config.model.nf = 8
    config.eval.batch_size, config.eval.batches = 4, 1
    if "discriminator" in config:
        config.discriminator.ndf = 8
    if "codeformer" in config:
        config.codeformer.dim_embd = 64
        config.codeformer.n_layers = 1
