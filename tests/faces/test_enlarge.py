"""Enlargement: seams of tiles, dtypes, gray, factors, damaged weights."""

import jax
import numpy as np
import pytest
from nn.test_photo_network_parts import drawn
from parity.seeded import seeded_image

from codeformer_jax.convert import save_model
from codeformer_jax.faces import enlarge as module_under_test
from codeformer_jax.faces.enlarge import NetworkEnlarger, enlarge
from codeformer_jax.faces.models import Model
from codeformer_jax.nn import RRDBNet

DTYPES = {"uint8": 255, "uint16": 65535, "float32": 1}


def network(scale):
    """A small network with random weights, whose results are mostly in [0, 1]."""
    module = RRDBNet(scale, width=6, blocks=1, growth=4)
    variables = drawn("rrdbnet", module)
    last = variables["params"]["conv_last"]
    last["kernel"], last["bias"] = last["kernel"] * 3, last["bias"] * 0 + 0.5
    return Model(module, variables)


def picture(height, width, dtype="uint8", gray=False):
    levels = seeded_image(height, width, 0) * DTYPES[dtype]
    levels = levels[..., 1] if gray else levels
    return levels if dtype == "float32" else np.round(levels).astype(dtype)


@pytest.mark.parametrize(("scale", "shape"), [(2, (120, 151)), (4, (70, 64))])
def test_tiles_leave_no_seam(scale, shape):
    model = network(scale)
    reach = model.module.reach
    image = picture(*shape, "float32")
    height, width = shape
    fold = model.module.fold
    even = np.pad(image, ((0, height % fold), (0, width % fold), (0, 0)), mode="edge")
    whole = np.asarray(jax.jit(model.module.apply)(model.variables, even[None])[0])
    whole = np.clip(whole[: scale * height, : scale * width], 0, 1)
    assert whole.std() > 0.05
    tiled = NetworkEnlarger(model, tile=24, overlap=reach + reach % 2)
    assert max(shape) > tiled.tile + 2 * tiled.overlap
    np.testing.assert_allclose(tiled(image, scale), whole, rtol=0, atol=1e-4)
    # Without a margin there is a seam.
    seamed = NetworkEnlarger(model, tile=24, overlap=0)(image, scale)
    assert np.abs(seamed - whole).max() > 1 / 255


def test_one_program_enlarges_all_large_pictures_and_few_the_small_ones():
    module_under_test._enlarge.clear_cache()
    enlarger = NetworkEnlarger(network(2), tile=16, overlap=4)
    for shape in ((24, 24), (25, 40), (61, 33), (19, 23)):
        for dtype in DTYPES:
            assert enlarger(picture(*shape, dtype), 2).shape == (2 * shape[0], 2 * shape[1], 3)
    assert module_under_test._enlarge._cache_size() == 1
    for side in range(1, 25):
        assert enlarger(picture(side, 24), 2).shape == (2 * side, 48, 3)
    assert module_under_test._enlarge._cache_size() == 4


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_and_gray_are_kept(dtype, gray):
    image = picture(20, 30, dtype, gray)
    enlarger = NetworkEnlarger(network(2), tile=16, overlap=4)
    expected = enlarger(picture(20, 30, "float32", gray), 2) * DTYPES[dtype]
    for result in (enlarger(image, 2), enlarge(image, 2)):
        assert (result.shape, result.dtype) == ((40, 60, *image.shape[2:]), image.dtype)
        assert result.max() <= DTYPES[dtype]
    # The network sees the same in each dtype, to rounding of the levels.
    assert np.abs(enlarger(image, 2) - expected).max() <= 0.02 * DTYPES[dtype]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("factor", [2, 4])
def test_every_network_serves_every_factor(scale, factor):
    enlarger = NetworkEnlarger(network(scale), tile=16, overlap=4)
    image = picture(20, 30, "float32")
    result = enlarger(image, factor)
    assert result.shape == (20 * factor, 30 * factor, 3)
    if scale > factor:
        expected = enlarger(image, 4).reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(result, expected, atol=1e-6)
    if scale < factor:
        np.testing.assert_array_equal(result, enlarger(enlarger(image, 2), 2))


def test_lanczos_covers_the_same_area():
    ramp = np.tile(np.arange(64, dtype=np.float32) / 64, (8, 1))
    inner = enlarge(ramp, 2)[4, 16:-16]
    expected = ((np.arange(128) + 0.5) / 2 - 0.5)[16:-16] / 64
    np.testing.assert_allclose(inner, expected, atol=2e-3)
    # Overshoot at an edge stays in range.
    step = np.where(np.arange(64) < 32, 0, 1).astype(np.float32)[None].repeat(8, axis=0)
    assert (enlarge(step, 4).min(), enlarge(step, 4).max()) == (0, 1)


def test_a_result_that_is_not_finite_names_the_tile():
    model = network(2)
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), model.variables)
    enlarger = NetworkEnlarger(Model(model.module, broken), tile=16, overlap=4)
    with pytest.raises(ValueError, match="enlargement of rows 0 to 19 and columns 0 to 19 has inf"):
        enlarger(picture(40, 30), 2)
    image = picture(60, 30, "float32")
    image[50, 25] = np.nan
    with pytest.raises(ValueError, match="rows 36 to 51 and columns 20 to 29 has"):
        NetworkEnlarger(model, tile=16, overlap=4)(image, 2)


@pytest.mark.parametrize("factor", [0, 1, 3, 8])
def test_other_factors_are_refused(factor):
    for enlarged in (enlarge, NetworkEnlarger(network(2), tile=16, overlap=4)):
        with pytest.raises(ValueError, match=f"factor is {factor}; expected 2 or 4"):
            enlarged(picture(4, 4), factor)


def test_other_scales_are_refused():
    with pytest.raises(ValueError, match="RRDBNet enlarges 1 times; expected a network that"):
        NetworkEnlarger(network(1))


def test_it_loads_from_a_model_file(tmp_path):
    model = network(2)
    save_model(tmp_path / "x2.safetensors", "rrdbnet", model.module, model.variables)
    assert NetworkEnlarger.load(tmp_path / "x2.safetensors").model.module.scale == 2
    published = NetworkEnlarger(model)
    assert (published.tile, published.overlap) == (800, 128)  # Twice those of a network for x4.
    with pytest.raises(ValueError, match="tile=15 and overlap=128: expected multiples of 2"):
        NetworkEnlarger(model, tile=15)
