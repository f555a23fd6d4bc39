"""The smallest configs that still have every part."""

from pathlib import Path

import ml_collections

from codeformer_jax.train import loop
from configs import demo, gpt_faces, pixelcnn_cifar10, pixelcnn_faces, vqvae_faces


def tiny_config(stage: str, steps: int = 4) -> ml_collections.ConfigDict:
    """The demo's config of a stage for 32 px, in seconds."""
    config = demo.get_config(f"{stage},short").unlock()
    config.steps = steps
    config.log_every = 1
    config.eval_every = config.checkpoint_every = 2
    config.mesh = "data:1"
    config.model.update(
        image_size=32, nf=8, ch_mult=(1, 2), norm_groups=4, codebook_size=16, emb_dim=8
    )
    config.data.update(image_size=32, batch_size=4, synthetic_length=32, heldout_length=6)
    config.eval.update(batch_size=4, batches=2)
    if stage != "code_prediction":
        config.discriminator.update(ndf=4, n_layers=1)
        config.loss.gan_start = 0
    if stage != "vqgan":
        config.teacher_min_psnr = 0.0
        config.codeformer.update(dim_embd=16, n_head=2, n_layers=1, connect_list=(16, 32))
    if stage == "restoration":
        row = {"w": 1.0, "recipe": "small", "image_losses": True}
        config.schedule = ({"until": steps, **row},)
    return config.lock()


def tiny_vqvae(steps: int = 4) -> ml_collections.ConfigDict:
    """`configs/vqvae_faces.py` for 32 px, in seconds."""
    return _in_seconds(shrink(vqvae_faces.get_config()), steps)


def tiny_pixelcnn(prior_of: str = "vqvae", steps: int = 4) -> ml_collections.ConfigDict:
    """`configs/pixelcnn_faces.py` for 32 px (8 px of pixels), in seconds."""
    if prior_of == "pixels":
        config = shrink(pixelcnn_cifar10.get_config()).unlock()
        config.data.image_size = 8
        config.data.path = None
    else:
        config = shrink(pixelcnn_faces.get_config(prior_of)).unlock()
        config.teacher_min_psnr = 0.0
    config.pixelcnn.features = config.pixelcnn.head_features = 24
    config.optimizer.warmup_steps = 0
    return _in_seconds(config, steps)


def _in_seconds(config: ml_collections.ConfigDict, steps: int) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references().unlock()
    config.steps = steps
    config.log_every = 1
    config.eval_every = config.checkpoint_every = 2
    config.mesh = "data:1"
    config.data.update(synthetic_length=32, heldout_length=6)
    config.eval.update(batch_size=4, batches=2)
    return config.lock()


def train_stages(root: Path) -> dict[str, dict[str, float]]:
    """Trains the three stages in `root`/STAGE, each from the one before; their last scores."""
    previous, scores = None, {}
    for stage in demo.STAGES:
        config = stage_config(stage, previous)
        scores[stage] = loop.train(config, root / stage)
        previous = str(root / stage)
    return scores


def stage_config(stage: str, previous: str | None) -> ml_collections.ConfigDict:
    """The config that `train_stages` gives a stage."""
    config = tiny_config(stage).unlock()
    config.init_from = previous
    if stage != "vqgan":
        config.codeformer.fusion_zero_init = False  # So that w makes a difference at once.
    return config.lock()


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A published config for 32 px and as many steps as its boundaries need.

    Sizes, depths and the number of groups shrink. Boundaries of the schedules keep their order and
    fall on steps 1, 2, 3, ...; all else is as published.
    """
    config = config.copy_and_resolve_references().unlock()
    if "image_size" in config.get("model", {}):
        config.model.update(image_size=32, res_blocks=1, codebook_size=16, emb_dim=8)
        if "hidden" in config.model:
            config.model.hidden = 16
        else:
            config.model.update(nf=8, ch_mult=(1, 2), norm_groups=4)
    if "pixelcnn" in config:
        config.pixelcnn.update(embed_dim=4, layers=2, features=6, first_kernel=3, kernel=3)
        config.pixelcnn.head_features = 6
    config.data.update(image_size=32, batch_size=4)
    if "codeformer" in config:
        # There are two levels, and one more side with fusion at 256 px than without.
        sides = (16, 32) if 256 in config.codeformer.connect_list else (16,)
        config.codeformer.update(dim_embd=16, n_head=2, n_layers=1, connect_list=sides)
    if "discriminator" in config:
        config.discriminator.update(ndf=4, n_layers=1)
        config.loss.statistics_groups = min(config.loss.statistics_groups, 2)
    if "gpt" in config:
        config.gpt.update(n_layer=1, n_head=2, n_embd=16)
    return _compress(config).lock()


def _compress(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with its step boundaries at 1, 2, 3, ...; the last phase has two steps."""
    rows = config.get("schedule", ())
    decays = config.optimizer.get("schedule") == "multistep"
    milestones = config.optimizer.milestones if decays else ()
    found = {config.steps, *milestones, *(row["until"] for row in rows)}
    if "gan_start" in config.loss:
        found.add(config.loss.gan_start)
    order = sorted(found)
    place = {boundary: i for i, boundary in enumerate(order, 1)}
    # Both of two rows that take turns get a step, and every run has at least three.
    place[order[-1]] = max(3, len(order) + 1)
    config.steps = place[config.steps]
    if milestones:
        config.optimizer.milestones = tuple(place[m] for m in milestones)
    if "gan_start" in config.loss:
        config.loss.gan_start = place[config.loss.gan_start]
    if rows:
        turns = {"every": 2}
        config.schedule = tuple(
            {**row, "until": place[row["until"]], **(turns if row.get("every") else {})}
            for row in rows
        )
    return config


def tiny_gpt(steps: int = 4) -> ml_collections.ConfigDict:
    """A transformer over the codes of `tiny_config('vqgan')`'s network: maps of 16x16."""
    config = gpt_faces.get_config("small").unlock()
    stage1 = tiny_config("vqgan", steps)
    for name in ("steps", "log_every", "eval_every", "checkpoint_every", "mesh"):
        config[name] = stage1[name]
    for section in ("model", "data", "eval"):
        config[section].update(stage1[section].to_dict())
    config.gpt.update(n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=5)
    config.teacher_min_psnr = 0.0
    config.eval.samples = False
    return config.lock()
