"""Tiny networks, a set of pictures and a test set that every test here shares."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import NAMES, draw_picture, make

from codeformer_jax.nn import VQGAN, CodeFormer

BACKBONE = {
    "image_size": 32,
    "nf": 8,
    "norm_groups": 4,
    "ch_mult": (1, 2),
    "attn_resolutions": (16,),
    "res_blocks": 1,
    "codebook_size": 16,
    "emb_dim": 8,
}
TRANSFORMER = {"dim_embd": 16, "n_head": 2, "n_layers": 1, "connect_list": (32,)}


def _random_variables(module, seed, **options):
    """Like `init`, without its compilation: kernels keep the scale of what they are given."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        if len(shape.shape) == 1:
            return jnp.ones(shape.shape)
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) == 4 else shape.shape[0]
        scale = 1 if shape.shape == (16, 8) else fan_in**-0.5
        return jnp.array(rng.normal(0, scale, shape.shape), jnp.float32)

    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, x: module.init(key, x, **options), jax.random.key(0), images
    )
    return jax.tree.map(draw, shapes)


class Pictures(list):
    """A source: the elements themselves."""


@pytest.fixture(scope="session")
def source():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 32)
    elements = Pictures()
    for index in range(11):
        a, b, c = rng.uniform(-1, 1, (3, 3))
        image = 0.5 + 0.25 * (a * ramp[:, None, None] + b * ramp[None, :, None]) + 0.1 * c
        image = np.clip(image + rng.normal(0, 0.03, (32, 32, 3)), 0, 1)
        name = f"folder/<{index:02d}> & co.png"
        elements.append({"image": (255 * image).astype(np.uint8), "name": name})
    return elements


@pytest.fixture(scope="session")
def codeformer():
    module = CodeFormer(**BACKBONE, **TRANSFORMER, fusion_zero_init=False)
    return module, _random_variables(module, 0, w=1.0)


@pytest.fixture(scope="session")
def vqgan():
    module = VQGAN(**BACKBONE)
    return module, _random_variables(module, 1)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    for seed, name in enumerate(NAMES):
        draw_picture(folder / name, seed)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="session")
def made(faces, tmp_path_factory):
    """A test set that nobody changes, its folder and what `make_testset` returned."""
    folder = tmp_path_factory.mktemp("sets") / "one"
    return folder, make(faces, folder)


@pytest.fixture
def copied(made, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(made[0], tmp_path / "copy")


@pytest.fixture(scope="session")
def runs(stages, tmp_path_factory):
    """Workdirs of the three stages, and the last as a model file."""
    # After the hook in tests/conftest.py, as all that imports a task.
    from codeformer_jax.checkpoints.trained import export_trained  # noqa: PLC0415
    from configs import demo  # noqa: PLC0415

    root = tmp_path_factory.mktemp("runs")
    for stage in demo.STAGES:
        (root / stage).symlink_to(stages[0] / stage)
    export_trained(root / "restoration", root / "codeformer.safetensors")
    return root


@pytest.fixture(scope="session")
def restoration(runs):
    """Evaluation of the last of them."""
    from tiny import tiny_config  # noqa: PLC0415

    from codeformer_jax.evaluate.run import evaluate_run  # noqa: PLC0415

    return evaluate_run(tiny_config("restoration"), runs / "restoration")
