"""Seeded weights and batches for both frameworks, and this project's steps on them.

Weights are drawn by PyTorch name and shape, as for the parity tests, and images likewise; the
degraded images of a batch are made once, by the stage's own recipe, and given to both.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parity.seeded import seeded_image, seeded_state_dict, seeded_tensor

PARITY = Path(__file__).resolve().parents[1] / "tests" / "parity"
STAGES = ("vqgan", "code_prediction", "restoration")
SEED = 0
# What is read by normalisations alone: the residual stream, of which these are the source, and the
# layers between two norms. Convolutions that carry the stream on keep their size (their biases are
# sources), or the levels' gains would multiply.
STREAM = re.compile(
    r"(encoder|generator)\.blocks\.(0|\d+\.(conv1|conv2|proj_out))\.(weight|bias)"
    r"|(encoder|generator)\.blocks\.\d+\.(conv|conv_out)\.bias"
    r"|main\.(0\.(weight|bias)|[258]\.weight|11\.weight)"
)


def lpips_weights():
    """LPIPS's state dict: seeded VGG16 and published linear heads, as the parity fixture has it."""
    import reference  # noqa: PLC0415

    weights, before = {}, 3
    for layer, width in reference.VGG.items():
        name = f"features.{layer}"
        kernel = seeded_tensor(f"vgg16.{name}.weight", (width, before, 3, 3), SEED)
        weights[f"{name}.weight"] = kernel * np.float32(1.6)
        weights[f"{name}.bias"] = seeded_tensor(f"vgg16.{name}.bias", (width,), SEED)
        before = width
    with np.load(PARITY / f"lpips_{SEED}.npz") as fixture:
        for head in range(5):
            weights[f"lin{head}.model.1.weight"] = fixture[f"lin{head}"].reshape(1, -1, 1, 1)
    return weights


def write_weights(directory, stage, size, path, gain=1.0):
    """Draws every network that the stage needs, named and shaped as the checkout's are.

    Args:
        gain: of those convolutions of the VQGAN of stage I and of the discriminator that only
            normalisations read. The networks compute the same at any, but for the norms' epsilon;
            it says how small a step of Adam is beside these weights.
    """
    import reference  # noqa: PLC0415

    published = reference.load(directory)
    networks = {"vqgan": reference.make_vqgan(published)}
    if stage != "vqgan":
        networks["codeformer"] = reference.make_codeformer(published, size)
    if stage != "code_prediction":
        networks["discriminator"] = reference.make_discriminator(published)
    tables = {n: seeded_state_dict(reference.shapes(m), SEED) for n, m in networks.items()}
    for network in ("vqgan", "discriminator") if stage == "vqgan" else ("discriminator",):
        table = tables.get(network, {})
        for name in filter(STREAM.fullmatch, table):
            table[name] = table[name] * np.float32(gain)
    if stage != "code_prediction":
        tables["lpips"] = lpips_weights()
    np.savez(path, **{f"{n}/{key}": w for n, table in tables.items() for key, w in table.items()})


def read_weights(path):
    """{network: {PyTorch name: array}} of `write_weights`."""
    tables = {}
    with np.load(path) as file:
        for key in file.files:
            network, _, name = key.partition("/")
            tables.setdefault(network, {})[name] = file[key]
    return tables


def clean_images(size, count):
    """Seeded images [count, size, size, 3] in [-1, 1] that 8 bits hold exactly."""
    images = np.stack([seeded_image(size, size, seed) for seed in range(count)])
    return np.round(255 * images).astype(np.float32) / np.float32(127.5) - 1


def stage_config(stage, size, batch, dtype="float32", **model):
    """The published config, with every value as published, at this size; both parts of GAN on."""
    from configs import codeformer_stage2  # noqa: PLC0415
    from configs.reference import codeformer_stage3, vqgan  # noqa: PLC0415

    make = {
        "vqgan": vqgan.get_config,
        "code_prediction": codeformer_stage2.get_config,
        "restoration": codeformer_stage3.get_config,
    }[stage]
    config = make().unlock()
    config.data.update(image_size=size, batch_size=batch)
    config.ema_warmup = False
    # The networks are those of 512 px, so that attention and fusion keep their levels.
    config.model.update(
        image_size=size, attn_resolutions=(size // 32,), dtype=dtype, beta_on="codebook", **model
    )
    if stage != "vqgan":
        config.codeformer.connect_list = tuple(size // part for part in (16, 8, 4, 2))
    if stage != "code_prediction":
        # PyTorch's loop is one process, whose statistics are those of its batch.
        config.loss.update(gan_start=0, statistics_groups=1)
    return config


def degraded_images(stage, images, batch):
    """The stage's own degradation of the clean images, one key each; none in stage I."""
    if stage == "vqgan":
        return images
    import jax  # noqa: PLC0415

    from codeformer_jax.tasks import make_task  # noqa: PLC0415

    task = make_task(stage_config(stage, images.shape[1], batch))
    keys = jax.random.split(jax.random.key(SEED), len(images))
    recipe = task.phase(0).recipe
    degrade = jax.jit(lambda real, keys: task.degrade(real, keys, recipe))
    parts = [
        np.asarray(degrade(images[i : i + batch], keys[i : i + batch]))
        for i in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


def make_step(task):
    """(state, frozen, clean, degraded) -> (state, metrics): the loop's donated step."""
    import jax  # noqa: PLC0415

    from codeformer_jax.nn.remat import compiler_options  # noqa: PLC0415
    from codeformer_jax.train.recorded_step import with_degraded  # noqa: PLC0415

    def step(state, frozen, clean, degraded):
        key = jax.random.key(0)
        given = with_degraded(task, degraded)
        return given.train_step(state, frozen, clean, key, task.phase(0))

    options = compiler_options(task.module.remat, jax.default_backend())
    return jax.jit(step, donate_argnums=0, compiler_options=options)


def use_double_precision():
    """Makes the package compute in float64 what it computes in float32.

    To be called before anything of it is imported: its modules name the type as they are read.
    """
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    if any(name.startswith("codeformer_jax.") for name in sys.modules):
        raise RuntimeError("use_double_precision() has to come before the package's imports")
    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64

    def attend(queries, keys, values):
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) / queries.shape[-1] ** 0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), values)

    jax.nn.dot_product_attention = attend  # JAX's own has its softmax in float32 whatever comes.


def start(stage, weights, config):
    """(task, state, frozen networks) of step 0 from PyTorch's weights."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    from codeformer_jax import convert  # noqa: PLC0415
    from codeformer_jax.tasks import common, make_task  # noqa: PLC0415
    from codeformer_jax.tasks.state import DiscriminatorState, TrainState  # noqa: PLC0415

    task = make_task(config)
    fields = {
        "image_size": config.model.image_size,
        "attn_resolutions": config.model.attn_resolutions,
    }

    def from_torch(network, table, **fields):
        module, variables = convert.from_torch(network, table, **fields)
        return module, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)

    frozen = {}
    network = "vqgan" if stage == "vqgan" else "codeformer"
    _, variables = from_torch(network, weights[network], **fields)
    if stage != "vqgan":
        frozen["teacher"] = from_torch("vqgan", weights["vqgan"], **fields)[1]
    discriminator = None
    if stage != "code_prediction":
        _, judge = from_torch("discriminator", weights["discriminator"])
        frozen["lpips"] = from_torch("lpips", weights["lpips"])[1]
        discriminator = DiscriminatorState(
            judge["params"], task.optimizer.init(judge["params"]), judge["batch_stats"]
        )
    params = variables["params"]
    trained = params if stage == "vqgan" else common.select(params, task.trained)
    codes = task.module.codebook_size
    state = TrainState.first(params, trained, task.optimizer, codes, discriminator=discriminator)
    return task, state, frozen


def dump(path, value):
    Path(path).write_text(json.dumps(value, indent=2) + "\n")
