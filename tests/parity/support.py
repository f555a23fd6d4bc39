"""Shared parts of the parity tests: fixtures, weights, errors that name the first layer."""

import functools
import json
import os
import re
from pathlib import Path

import jax
import numpy as np
from parity.seeded import seeded_image, seeded_state_dict, seeded_tensor

from codeformer_jax.compare import Entry, Trace, assert_close
from codeformer_jax.convert import from_torch

HERE = Path(__file__).parent

# Compiled as users compile: the other tests compile in haste, see conftest.py.
FLAGS = os.environ["XLA_FLAGS"]
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 3,
        **({"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in FLAGS else {}),
    },
)
SEED = 0

# Gaps between a float32 run here and one in PyTorch that are rounding alone.
ARRAY_BOUND = 1e-4  # relative L2 error
SCALAR_BOUND = 1e-4  # absolute
NORM_BOUND = (1e-3, 1e-6)  # of the gradient norm itself, and of the largest one

# Top-level names in the order in which data passes them.
NETWORK_ORDER = (
    "encoder",
    "position_emb",
    "feat_emb",
    "ft_layers",
    "idx_pred_layer",
    "quantize",
    "generator",
    "fuse_convs_dict",
    "main",
)


def load(name):
    """A fixture as {name: array}."""
    return dict(np.load(HERE / f"{name}_{SEED}.npz"))


def table(fixture, key):
    """A JSON entry of a fixture."""
    return json.loads(str(fixture[key]))


def backbone_fields(fixture):
    """Fields of a VQGAN that its weights do not show, and the published placement of beta."""
    config = table(fixture, "config") if "config" in fixture else {"img_size": 64}
    return {"image_size": config["img_size"], "beta_on": "codebook"}


def seeded(network, fixture, key="shapes", **fields):
    """(module, variables) with the fixture's seeded weights, through the converter."""
    return from_torch(network, seeded_state_dict(table(fixture, key), SEED), **fields)


def seeded_lpips(fixture, **fields):
    """LPIPS as the fixture's note describes it: seeded VGG16, published linear heads."""
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512}
    widths |= {24: 512, 26: 512, 28: 512}
    weights, before = {}, 3
    for layer, width in widths.items():
        name = f"features.{layer}"
        kernel = seeded_tensor(f"vgg16.{name}.weight", (width, before, 3, 3), SEED)
        weights[f"{name}.weight"] = kernel * np.float32(1.6)
        weights[f"{name}.bias"] = seeded_tensor(f"vgg16.{name}.bias", (width,), SEED)
        before = width
    for head in range(5):
        weights[f"lin{head}.model.1.weight"] = fixture[f"lin{head}"].reshape(1, -1, 1, 1)
    return from_torch("lpips", weights, **fields)


# Sides of maps before a blur are even in the first size, and both even and odd in the second.
ST_LPIPS_SIZES = ((64, 64), (61, 76))


def st_lpips_table(shapes, buffers):
    """State dict of ST-LPIPS: seeded weights, positive heads, the given buffers."""
    weights = seeded_state_dict(shapes, SEED)
    for name in weights:
        if name.startswith("lin"):
            weights[name] = np.abs(weights[name])
        elif name.endswith("weight"):
            weights[name] = weights[name] * np.float32(1.6)
    return {**weights, **buffers}


def seeded_st_lpips(fixture):
    """(module, variables) of ST-LPIPS with the weights of `make_st_lpips.py`."""
    buffers = {k.partition(":")[2]: v for k, v in fixture.items() if k.startswith("buffer:")}
    return from_torch("st_lpips", st_lpips_table(table(fixture, "shapes"), buffers))


def image_pairs(height, width):
    """Two batches of two seeded images in [-1, 1]."""
    made = np.stack([seeded_image(height, width, seed) for seed in range(4)]) * 2 - 1
    return made[:2], made[2:]


def images(side, *seeds):
    """Seeded images as a batch in [-1, 1]."""
    return np.stack([seeded_image(side, side, seed) for seed in seeds]) * 2 - 1


def relative_error(ours, theirs):
    """||ours - theirs|| / ||theirs|| in float64."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, f"shape {ours.shape}, expected {theirs.shape}"
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def assert_arrays(pairs, bound=ARRAY_BOUND):
    """Every (ours, theirs) is within the bound; `pairs` is in network order.

    Integer arrays must be identical.
    """
    for name, (ours, theirs) in pairs.items():
        assert np.shape(ours) == np.shape(theirs), f"{name}: shapes differ"
    traces = (
        Trace(tuple(_entry(name, pair[side]) for name, pair in pairs.items()), {})
        for side in (0, 1)
    )
    assert_close(*traces, bound, suspects=False)


def _entry(name, array):
    code = np.issubdtype(np.asarray(array).dtype, np.integer)
    return Entry.whole("code" if code else "activation", name, array)


def assert_numbers(ours, theirs, allowed):
    """Every number of the table `theirs` is matched; `allowed(name, value)` is how closely."""
    missing = theirs.keys() - ours.keys()
    assert not missing, f"no number for {sorted(missing)}"
    wrong = []
    for name in sorted(theirs, key=network_order):
        bound = allowed(name, theirs[name])
        if not abs(ours[name] - theirs[name]) <= bound:
            wrong.append(f"{name}: {ours[name]:.8g}, expected {theirs[name]:.8g} +- {bound:.1e}")
    assert not wrong, _message(wrong, len(theirs))


def assert_scalars(ours, theirs):
    """Loss scalars, in the order of their computation."""
    wrong = [
        f"{name}: {float(ours[name]):.8g}, expected {theirs[name]:.8g}"
        for name in theirs
        if not abs(float(ours[name]) - theirs[name]) <= SCALAR_BOUND
    ]
    assert not wrong, _message(wrong, len(theirs))


def assert_gradient_norms(gradients, norms):
    """`gradients` {PyTorch name: array} have the fixture's norms."""
    relative, of_largest = NORM_BOUND
    floor = of_largest * max(norms.values())
    ours = {name: np.linalg.norm(g.astype(np.float64)) for name, g in gradients.items()}
    assert_numbers(ours, norms, lambda name, value: relative * value + floor)


def network_order(name):
    """Sort key that puts PyTorch names in the order in which data passes their layers."""
    head, *_ = name.split(".")
    parts = [int(p) if p.isdigit() else p for p in re.split(r"\.", name)]
    rank = NETWORK_ORDER.index(head) if head in NETWORK_ORDER else len(NETWORK_ORDER)
    return rank, [(isinstance(p, str), p) for p in parts]


def _message(wrong, count):
    shown = "\n  ".join(wrong[:10])
    return f"first layer that differs: {wrong[0]}\n{len(wrong)} of {count} differ:\n  {shown}"
