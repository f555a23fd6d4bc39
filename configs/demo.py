"""The three stages on synthetic faces at 64 px, on two CPU cores: what `make demo` runs.

    for STAGE in vqgan, code_prediction, restoration:
    python train.py --config=configs/demo.py:STAGE --workdir=demo/STAGE --config.init_from=PREVIOUS

The first stage takes no `init_from`. The argument may be followed by a size: `vqgan,short` takes a
few steps only. Other images are one setting away: --config.data.path=DIR.
"""

import ml_collections

from configs import codeformer_stage2, codeformer_stage3, vqgan

STAGES = {
    "vqgan": vqgan.get_config,
    "code_prediction": codeformer_stage2.get_config,
    "restoration": codeformer_stage3.get_config,
}
STEPS = {
    "full": {"vqgan": 900, "code_prediction": 350, "restoration": 400},
    "short": {"vqgan": 40, "code_prediction": 20, "restoration": 20},
}


def stage_and_size(file: str, argument: str, steps: dict[str, dict[str, int]]) -> tuple[str, str]:
    """Returns both parts of STAGE[,SIZE], given the steps by size and stage."""
    stage, _, size = argument.partition(",")
    size = size or "full"
    if size not in steps or stage not in steps[size]:
        raise ValueError(
            f"{file}:{argument} is not STAGE[,SIZE] with a stage of {', '.join(steps['full'])} "
            f"and a size of {', '.join(steps)}"
        )
    return stage, size


def get_config(argument: str = "vqgan,full") -> ml_collections.ConfigDict:
    stage, size = stage_and_size("configs/demo.py", argument, STEPS)
    config = STAGES[stage]().unlock()
    config.steps = STEPS[size][stage]
    config.ema_decay = 0.98
    config.log_every = 20
    config.eval_every = config.checkpoint_every = 200 if size == "full" else 20

    config.model.image_size = 64
    config.model.nf = 16
    config.model.ch_mult = (1, 2, 4)
    config.model.res_blocks = 1
    config.model.norm_groups = 8
    config.model.codebook_size = 256
    config.model.emb_dim = 32
    config.model.ema_decay = 0.95
    config.model.restart_below = 0.1

    config.data.image_size = 64
    config.data.batch_size = 8
    config.data.workers = 0
    config.data.cache = True
    config.data.heldout_fraction = 0.1
    config.data.synthetic_length = 2000
    config.data.heldout_length = 64
    config.eval.batch_size = 16
    config.eval.batches = 4

    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.final_learning_rate = 1e-4
    config.optimizer.warmup_steps = 20
    config.optimizer.clip_norm = 1.0
    if stage != "code_prediction":
        config.discriminator.ndf = 16
        config.discriminator.n_layers = 2
        config.loss.perceptual_weight = 0.0
        config.loss.gan_start = int(0.8 * config.steps)
    if stage != "vqgan":
        codes(config, size)
    if stage == "restoration":
        config.schedule = ({"until": 10**9, "w": 1.0, "recipe": "small", "image_losses": True},)
    return config.lock()


def codes(config: ml_collections.ConfigDict, size: str) -> None:
    """Transformer and degradations for 64 px; the recipes leave the input near 20 dB."""
    config.teacher_min_psnr = 18.0 if size == "full" else 5.0
    config.codeformer.dim_embd = 128
    config.codeformer.n_head = 4
    config.codeformer.n_layers = 2
    config.codeformer.connect_list = (32, 64)
    for recipe in ("large", "small"):
        config.degradation[recipe] = {
            "blur_sigma": (1.0, 3.0),
            "downsample": (2.0, 6.0),
            "noise": (0.0, 25.0),
            "jpeg_quality": (30.0, 70.0),
            "anisotropic": 0.5,
        }
