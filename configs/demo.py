"""All three stages on synthetic faces at 64 px: what `make demo` runs, on two CPU cores.

python train.py --config=configs/demo.py:vqgan --workdir=demo/1
python train.py --config=configs/demo.py:code_prediction --workdir=demo/2 --config.init_from=demo/1
python train.py --config=configs/demo.py:restoration --workdir=demo/3 --config.init_from=demo/2
"""

import ml_collections

from configs import codeformer_stage2, codeformer_stage3, vqgan

STAGES = {
    "vqgan": vqgan.get_config,
    "code_prediction": codeformer_stage2.get_config,
    "restoration": codeformer_stage3.get_config,
}


def get_config(stage: str = "vqgan") -> ml_collections.ConfigDict:
    if stage not in STAGES:
        raise ValueError(f"configs/demo.py:{stage}: the stage is one of {', '.join(STAGES)}")
    config = STAGES[stage]().unlock()
    config.steps = {"vqgan": 600, "code_prediction": 500, "restoration": 300}[stage]
    config.ema_decay = 0.99
    config.log_every = 20
    config.eval_every = 200
    config.checkpoint_every = 200
    config.model.update(
        image_size=64,
        nf=16,
        ch_mult=(1, 2, 4),
        attn_resolutions=(),
        norm_groups=8,
        codebook_size=128,
        emb_dim=32,
    )
    config.data.update(
        image_size=64,
        batch_size=16,
        workers=0,
        cache=True,
        synthetic_length=2000,
        heldout_length=64,
        heldout_fraction=0.1,
    )
    config.eval.update(batch_size=16, batches=4)
    config.loss.perceptual_weight = 0.0
    config.optimizer.update(
        learning_rate=1e-3,
        schedule="cosine",
        final_learning_rate=1e-4,
        clip_norm=1.0,
        warmup_steps=20,
    )
    if stage != "code_prediction":
        config.discriminator.update(ndf=16, n_layers=2)
        config.loss.gan_start = 400
    if stage != "vqgan":
        config.codeformer.update(dim_embd=128, n_head=4, n_layers=3, connect_list=(32, 64))
        config.degradation.large = {
            "blur_sigma": (0.5, 2.0),
            "downsample": (1.5, 4.0),
            "noise": (0.0, 15.0),
            "jpeg_quality": (40.0, 80.0),
            "anisotropic": 0.5,
        }
        config.degradation.small = dict(config.degradation.large)
    if stage == "restoration":
        config.optimizer.learning_rate = 5e-4
        config.schedule = (
            {"until": config.steps, "w": 1.0, "recipe": "small", "image_losses": True},
        )
    return config.lock()
