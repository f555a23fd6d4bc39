"""Parts of RetinaFace, ParseNet and RRDBNet against plain formulations, and their bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.convert.networks import expected_variables
from codeformer_jax.nn import ParseNet, RetinaFace, RRDBNet
from codeformer_jax.nn.parsenet import ConvLayer
from codeformer_jax.nn.rrdbnet import _folded
from codeformer_jax.system.keys import make_key

RETINAFACES = {
    "resnet50": RetinaFace("resnet50", stem=4, width=8),
    "mobilenet": RetinaFace("mobilenet", stem=2, width=72),
}


def drawn(network, module):
    """Random variables of a network; statistics of norms are near those of a new one."""
    rng = np.random.RandomState(0)

    def draw(path, like):
        noise = rng.standard_normal(like.shape).astype(like.dtype)
        if path[-1].key in ("var", "scale"):
            return 1 + 0.1 * np.abs(noise)
        return noise / np.float32(np.sqrt(np.prod(like.shape[:-1]) or 1) if noise.ndim > 1 else 5)

    variables = jax.tree_util.tree_map_with_path(draw, expected_variables(network, module))
    return jax.tree.map(jnp.asarray, variables)


@pytest.mark.parametrize(
    "backbone", ["mobilenet", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_padding_does_not_change_the_predictions(backbone):
    module = RETINAFACES[backbone]
    variables = drawn("retinaface", module)
    rng = np.random.RandomState(1)
    image = 50 * rng.standard_normal((1, 75, 90, 3)).astype(np.float32)
    canvas = rng.standard_normal((1, 96, 128, 3)).astype(np.float32)  # Not even zeros outside.
    canvas[:, :75, :90] = image
    alone = jax.jit(module.apply)(variables, image)
    padded = jax.jit(module.apply)(variables, canvas, jnp.array([[75, 90]]))
    kept = []
    for stride in (8, 16, 32):
        rows, columns = np.mgrid[: 96 // stride, : 128 // stride]
        inside = (rows < -(-75 // stride)) & (columns < -(-90 // stride))
        kept.append(np.repeat(inside.ravel(), 2))
    kept = np.concatenate(kept)
    for name in ("boxes", "logits", "points"):
        ours, expected = getattr(padded, name)[:, kept], getattr(alone, name)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        assert np.std(expected) > 0.01


@pytest.mark.parametrize("resample", [None, "down", "up"])
def test_borders_are_mirrored(resample):
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 6, 8, 3)), jnp.float32)
    layer = ConvLayer(4, resample)
    variables = layer.init(make_key(0), x)
    larger = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2) if resample == "up" else x
    padded = np.pad(larger, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    stride = 2 if resample == "down" else 1
    kernel, bias = (variables["params"]["conv2d"][name] for name in ("kernel", "bias"))
    expected = jax.lax.conv_general_dilated(
        padded, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    ours = layer.apply(variables, x)
    np.testing.assert_allclose(ours, expected + bias[None, None, None], rtol=1e-5, atol=1e-5)


def test_pixels_fold_in_pytorchs_order():
    x = np.arange(2 * 4 * 8 * 3, dtype=np.float32).reshape(2, 4, 8, 3)
    # As torch.nn.functional.pixel_unshuffle: colours are the slowest, columns the fastest.
    planes = [x[:, row::2, column::2, c] for c in range(3) for row in (0, 1) for column in (0, 1)]
    np.testing.assert_array_equal(_folded(jnp.asarray(x), 2), np.stack(planes, axis=-1))


@pytest.mark.parametrize("scale", [1, 2])
def test_nothing_beyond_its_reach_changes_a_pixel(scale):
    module = RRDBNet(scale, width=4, blocks=1, growth=2)
    variables = drawn("rrdbnet", module)
    side, reach = 96, module.reach
    images = np.random.RandomState(0).uniform(size=(1, side, side, 3)).astype(np.float32)
    changed = np.array(images)
    changed[:, 0] = 1 - changed[:, 0]
    enlarge = jax.jit(module.apply)
    before, after = (np.asarray(enlarge(variables, x)) for x in (images, changed))
    assert before.shape == (1, scale * side, scale * side, 3)
    moved = np.flatnonzero(np.abs(before - after).max(axis=(0, 2, 3)) > 0)
    assert 0 < moved.max() < scale * (reach + 1)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (ParseNet((4, 4, 4), 1, 2), (1, 8, 10, 3), "8x10 px; expected sides of at least 8 px"),
        (RRDBNet(2, 4, 1, 2), (1, 8, 9, 3), "8x9 px; a network for scale 2 needs multiples of 2"),
        (RETINAFACES["mobilenet"], (1, 64, 64, 1), "expected .batch, height, width, 3."),
    ],
)
def test_bad_images_are_refused(module, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.init(make_key(0), np.zeros(shape, np.float32)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RetinaFace("vgg"), "backbone is 'vgg'; expected one of"),
        (lambda: RetinaFace(width=6), "width a positive multiple of 4; got 64 and 6"),
        (lambda: ParseNet(widths=(8,)), r"widths \(at least two\).* got \(8,\), 10 and 19"),
        (lambda: RRDBNet(3), "scale is 3; expected one of"),
        (lambda: RRDBNet(blocks=0), "must be positive; got 64, 0 and 32"),
    ],
)
def test_impossible_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
