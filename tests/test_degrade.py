"""The degradation recipe: OpenCV's numbers, independence of images, draws, refusals."""

import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from parity.seeded import seeded_image
from scipy import stats

from codeformer_jax import degrade
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.degrade import Parameters, Recipe
from codeformer_jax.ops.blur import filter2d, gaussian_kernels
from codeformer_jax.ops.jpeg import jpeg
from codeformer_jax.ops.random import standard_normal
from codeformer_jax.ops.resize import resize_bilinear

FIXTURE = Path(__file__).parent / "parity" / "degradation_0.npz"
SETS = 6
RUN = jax.jit(degrade.degrade)
DRAW = jax.jit(jax.vmap(degrade.draw, in_axes=(0, None, None)), static_argnums=2)
RANGES = {
    "blur_sigma": (0.3, 2.0),
    "downsample": (1.0, 4.0),
    "noise": (0.0, 10.0),
    "jpeg_quality": (40, 90),
}


@pytest.fixture(scope="module")
def fixture():
    return dict(np.load(FIXTURE))


@pytest.fixture(scope="module")
def given(fixture):
    """Images, parameters and noise of the six sets as one batch."""
    sets = json.loads(str(fixture["params"]))

    def column(name, dtype=jnp.float32, factor=1.0):
        return jnp.asarray([p[name] * factor for p in sets], dtype)

    parameters = Parameters(
        sigma_x=column("sigma_x"),
        sigma_y=column("sigma_y"),
        theta=column("theta"),
        small_size=column("small_size", jnp.int32),
        noise_sigma=column("noise_sigma_255", factor=1 / 255),
        jpeg_quality=column("jpeg_quality", jnp.int32),
    )
    noise = np.zeros((SETS, 512, 512, 3), np.float32)
    for index, p in enumerate(sets):
        n = p["small_size"]
        noise[index, :n, :n] = np.random.RandomState(p["noise_seed"]).standard_normal((n, n, 3))
    image = jnp.asarray(seeded_image(512, 512, 0))
    images = jnp.broadcast_to(image, (SETS, 512, 512, 3))
    return images, parameters, jnp.asarray(noise)


@pytest.fixture(scope="module")
def stages(given):
    @jax.jit
    def run(images, p, noise):
        full = jnp.full_like(p.small_size, 512)
        kernels = gaussian_kernels(p.sigma_x, p.sigma_y, p.theta)
        blurred = filter2d(images, kernels, symmetric=True)
        small = resize_bilinear(blurred, full, full, p.small_size, p.small_size)
        noisy = jnp.clip(small + noise * p.noise_sigma[:, None, None, None], 0.0, 1.0)
        coded = jpeg(noisy, p.jpeg_quality, p.small_size, p.small_size)
        return {"kernel": kernels, "blurred": blurred, "downsampled": small, "noisy": noisy} | {
            "jpeg": coded,
            "output": degrade.apply(images, p, noise),
        }

    return {name: np.asarray(value) for name, value in run(*given).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "tolerance"),
    [("kernel", 1e-6), ("blurred", 1e-4), ("downsampled", 1e-4), ("noisy", 1e-4)],
)
@pytest.mark.parametrize("index", range(SETS))
def test_stage_equals_opencv(stage, tolerance, index, *, fixture, given, stages):
    size = int(given[1].small_size[index])
    stride = {"kernel": 1, "blurred": 16}.get(stage, max(1, size // 32))
    value = stages[stage][index]
    if stage in ("downsampled", "noisy"):
        value = value[:size, :size]
    expected = fixture[f"{stage}_{index}"]
    np.testing.assert_allclose(value[::stride, ::stride][: len(value)], expected, atol=tolerance)


@pytest.mark.slow
def test_jpeg_and_output_equal_opencv(fixture, given, stages):
    jpeg_errors, output_errors = [], []
    for index in range(SETS):
        side = min(int(given[1].small_size[index]), 64)
        coded = stages["jpeg"][index, :side, :side] * 255
        jpeg_errors.append(np.abs(coded - fixture[f"jpeg_{index}"]))
        output = stages["output"][index] * 255
        output_errors.append(np.abs(output[::8, ::8] - fixture[f"output_{index}"]))
        np.testing.assert_allclose(output, np.round(output), atol=1e-4)
        mean = stages["output"][index].mean((0, 1))
        np.testing.assert_allclose(mean, fixture[f"output_mean_{index}"], atol=0.1 / 255)
    assert np.mean([(e <= 2 + 1e-3).mean() for e in jpeg_errors]) >= 0.97
    assert np.mean([e.mean() for e in jpeg_errors]) <= 0.4
    assert np.mean([e.mean() for e in output_errors]) <= 0.5
    # What float32 attains: a few pixels of a thousand differ, by a rounding.
    assert np.mean([e.mean() for e in output_errors]) <= 0.05


def batch_of(count, size, seed=0):
    images = [seeded_image(size, size, seed + i) for i in range(count)]
    return jnp.asarray(np.stack(images))


@pytest.mark.parametrize("size", [21, 64, 160])
def test_an_image_depends_on_its_own_key_and_pixels_only(size):
    count = 5
    images, keys = batch_of(count, size), jax.random.split(jax.random.key(3), count)
    recipe = Recipe.from_config(RANGES)
    together = RUN(images, keys, recipe)
    order = jnp.asarray([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(RUN(images[order], keys[order], recipe), together[order])
    changed = RUN(images.at[1].set(0.5), keys, recipe)
    np.testing.assert_array_equal(changed[2:], together[2:])
    other = RUN(images, keys.at[0].set(jax.random.key(99)), recipe)
    np.testing.assert_array_equal(other[1:], together[1:])
    assert np.any(other[0] != together[0])


def test_an_image_alone_is_the_same_but_for_rounding():
    images, keys = batch_of(5, 64), jax.random.split(jax.random.key(3), 5)
    recipe = Recipe.from_config(RANGES)
    together = RUN(images, keys, recipe)
    alone = jnp.concatenate([RUN(images[i : i + 1], keys[i : i + 1], recipe) for i in (0, 4)])
    # Another batch size is another compiled program, whose sums may differ in the last bit; one in
    # thousands then falls on the other side of a rounding.
    assert np.mean(np.abs(alone - together[jnp.asarray([0, 4])]) * 255) < 0.02


@pytest.mark.parametrize("size", [32, pytest.param(160, marks=pytest.mark.slow)])
def test_plain_jitted_and_vmapped_agree(size):
    images, keys = batch_of(4, size), jax.random.split(jax.random.key(0), 4)
    recipe = Recipe.from_config(RANGES)
    plain = degrade.degrade(images, keys, recipe)
    jitted = RUN(images, keys, recipe)
    grouped = images.reshape(2, 2, *images.shape[1:]), keys.reshape(2, 2)
    mapped = jax.jit(jax.vmap(degrade.degrade, in_axes=(0, 0, None)))(*grouped, recipe)
    for other in (jitted, mapped.reshape(plain.shape)):
        # Fusion may move a last bit, which now and then moves an 8-bit level.
        assert np.mean(np.abs(other - plain) * 255) < 0.05


def test_another_recipe_does_not_recompile():
    images, keys = batch_of(5, 64), jax.random.split(jax.random.key(0), 5)
    RUN(images, keys, Recipe.from_config(RANGES))
    compiled = RUN._cache_size()
    results = [RUN(images, keys, r) for r in (Recipe.named("large"), Recipe.named("small"))]
    assert RUN._cache_size() == compiled
    assert np.any(results[0] != results[1])


def test_large_degrades_more_than_small_and_both_leave_8_bit_images():
    images, keys = batch_of(5, 64), jax.random.split(jax.random.key(1), 5)
    errors = []
    for recipe in (Recipe.named("small"), Recipe.named("large")):
        degraded = RUN(images, keys, recipe)
        assert degraded.dtype == jnp.float32
        assert 0 <= degraded.min() <= degraded.max() <= 1
        np.testing.assert_allclose(degraded * 255, jnp.round(degraded * 255), atol=1e-4)
        errors.append(float(jnp.mean((degraded - images) ** 2)))
    assert 0 < errors[0] < errors[1]


def opencv_degrade(image, kernel, drawn, index, noise):
    """Image [s, s, 3] through OpenCV with what was drawn for `index`; levels of 255."""
    n = int(drawn.small_size[index])
    small = cv2.resize(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), (n, n))
    noisy = np.clip(small + noise[:n, :n] * float(drawn.noise_sigma[index]), 0, 1)
    levels = np.round(noisy[..., ::-1] * 255).astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_QUALITY, int(drawn.jpeg_quality[index])]
    coded = cv2.imdecode(cv2.imencode(".jpg", levels, flags)[1], 1)[..., ::-1]
    return np.round(cv2.resize(coded.astype(np.float32), image.shape[:2]))


def test_same_key_and_parameters_give_opencvs_picture():
    """A whole draw at 64 px against an OpenCV loop with the drawn parameters and noise."""
    images, keys = batch_of(5, 64, seed=10), jax.random.split(jax.random.key(8), 5)
    recipe = Recipe.from_config(RANGES)
    streams = jax.vmap(jax.random.split)(keys)
    drawn = DRAW(streams[:, 0], recipe, 64)
    noise = np.asarray(standard_normal(streams[:, 1], 64, 64, 3))
    ours = RUN(images, keys, recipe) * 255
    kernels = np.asarray(gaussian_kernels(drawn.sigma_x, drawn.sigma_y, drawn.theta))
    for index, image in enumerate(np.asarray(images)):
        expected = opencv_degrade(image, kernels[index], drawn, index, noise[index])
        assert np.mean(np.abs(ours[index] - expected)) < 0.1, index


@pytest.fixture(scope="module")
def faces():
    source = SyntheticFaces("heldout", 64, 128)
    return np.stack([source[i]["image"] for i in range(128)]).astype(np.float32) / 255


@pytest.mark.parametrize("name", ["large", "small", "celeba-test"])
def test_degraded_faces_have_opencvs_mean_psnr(name, faces):
    """OpenCV draws noise of its own, and the same parameters."""
    images, recipe = faces, Recipe.named(name)
    count, size = images.shape[:2]
    keys = jax.random.split(jax.random.key(11), count)
    first = jax.vmap(jax.random.split)(keys)[:, 0]
    drawn = DRAW(first, recipe, size)
    kernels = np.asarray(gaussian_kernels(drawn.sigma_x, drawn.sigma_y, drawn.theta))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((count, size, size, 3)).astype(np.float32)
    theirs = np.stack(
        [opencv_degrade(images[i], kernels[i], drawn, i, noise[i]) for i in range(count)]
    )

    def mean_psnr(degraded):
        return np.mean(-10 * np.log10(np.mean((degraded - images) ** 2, axis=(1, 2, 3))))

    ours = np.asarray(RUN(jnp.asarray(images), keys, recipe))
    assert 10 < mean_psnr(ours) < 40
    assert abs(mean_psnr(ours) - mean_psnr(theirs / 255)) < 0.2


@pytest.mark.parametrize("name", ["large", "small", "celeba-test"])
def test_draws_follow_the_published_laws(name):
    """Kolmogorov-Smirnov tests of 10,000 draws; integers are spread over what truncates to them."""
    published = {
        "large": {"sigma": (1, 15), "r": (4, 30), "noise": (0, 20), "quality": (30, 80)},
        "small": {"sigma": (0.1, 10), "r": (1, 12), "noise": (0, 15), "quality": (60, 100)},
        "celeba-test": {"sigma": (1, 15), "r": (1, 30), "noise": (0, 20), "quality": (30, 90)},
    }[name]
    # So large that truncation of the small side does not show in the factor.
    count, size, recipe = 10_000, 10**7, Recipe.named(name)
    keys = jax.random.split(jax.random.key(5), count)
    p = jax.device_get(DRAW(keys, recipe, size))
    isotropic = p.sigma_x == p.sigma_y
    assert stats.binomtest(int(isotropic.sum()), count, 0.5).pvalue > 1e-3
    assert np.all(p.theta[isotropic] == 0)
    assert p.jpeg_quality.dtype == p.small_size.dtype == np.int32
    drawn = {
        "sigma_x": (p.sigma_x, published["sigma"]),
        "sigma_y": (p.sigma_y[~isotropic], published["sigma"]),
        "theta": (p.theta[~isotropic], (-np.pi, np.pi)),
        "noise": (p.noise_sigma * 255, published["noise"]),
        "r": (size / p.small_size, published["r"]),
        "quality": (
            p.jpeg_quality + np.random.default_rng(0).random(count),
            published["quality"],
        ),
    }
    for label, (values, (low, high)) in drawn.items():
        assert low - 1e-3 <= values.min() <= values.max() <= high + 1e-3, label
        law = stats.uniform(low, high - low)
        assert stats.kstest(values, law.cdf).pvalue > 1e-3, label
    names = ("sigma_x", "noise_sigma", "jpeg_quality", "small_size")
    correlation = stats.spearmanr(np.stack([getattr(p, each) for each in names], axis=1)).statistic
    assert np.abs(correlation - np.eye(4)).max() < 0.05


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.2, 0.2)])
def test_anisotropic_probability(probability, expected):
    recipe = Recipe.create(**RANGES, anisotropic=probability)
    keys = jax.random.split(jax.random.key(6), 2000)
    p = DRAW(keys, recipe, 64)
    assert abs(np.mean(p.sigma_x != p.sigma_y) - expected) < 0.03


def test_fixed_ranges_fix_every_value():
    recipe = Recipe.create(
        blur_sigma=(2, 2), downsample=(2.7, 2.7), noise=(5, 5), jpeg_quality=(70, 70)
    )
    p = degrade.draw(jax.random.key(0), recipe, 512)
    assert (p.sigma_x, p.sigma_y, p.small_size, p.jpeg_quality) == (2, 2, 189, 70)
    np.testing.assert_allclose(p.noise_sigma, 5 / 255, rtol=1e-6)


def test_factors_beyond_the_side_leave_one_pixel():
    recipe = Recipe.create(
        blur_sigma=(1, 1), downsample=(100, 100), noise=(0, 0), jpeg_quality=(90, 90)
    )
    keys = jax.random.split(jax.random.key(0), 5)
    degraded = RUN(batch_of(5, 64), keys, recipe)
    assert np.all(degraded == degraded[:, :1, :1])


def test_recipe_from_config():
    config = ml_collections.ConfigDict(RANGES | {"anisotropic": 0.25})
    recipe = Recipe.from_config(config)
    np.testing.assert_allclose(recipe.blur_sigma, RANGES["blur_sigma"])
    np.testing.assert_allclose(recipe.anisotropic, 0.25)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(recipe))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blur_sigma": (3.0, 1.0)}, r"blur_sigma is \(3.0, 1.0\).*low <= high"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"downsample": (0.5, 4.0)}, "downsample is .*1 <= low"),
        ({"noise": (-1.0, 4.0)}, "noise"),
        ({"noise": (0.0, float("nan"))}, "noise"),
        ({"jpeg_quality": (30, 101)}, "jpeg_quality is .*<= 100"),
        ({"jpeg_quality": (1, 2, 3)}, "jpeg_quality"),
        ({"anisotropic": 1.5}, "anisotropic is 1.5"),
        ({"sharpen": (0, 1)}, r"unknown \['sharpen'\]"),
    ],
)
def test_wrong_ranges_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_config(RANGES | changes)


def test_missing_range_is_named():
    with pytest.raises(ValueError, match=r"missing \['noise'\]"):
        Recipe.from_config({k: v for k, v in RANGES.items() if k != "noise"})


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((64, 64, 3), jnp.float32, ValueError, r"\[64, 64, 3\]; expected \[batch.*images\[None\]"),
        ((2, 64, 48, 3), jnp.float32, ValueError, "64x48 px; expected squares: crop"),
        ((2, 64, 64, 1), jnp.float32, ValueError, "expected"),
        ((2, 20, 20, 3), jnp.float32, ValueError, "20 pixels a side.*at least 21"),
        ((2, 64, 64, 3), jnp.uint8, TypeError, r"float32 in \[0, 1\]: images\.astype\(.*255"),
        ((2, 64, 64, 3), jnp.bfloat16, TypeError, r"images are bfloat16; pass float32"),
    ],
)
def test_wrong_images_are_refused(shape, dtype, error, message):
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(error, match=message):
        degrade.degrade(jnp.zeros(shape, dtype), keys, Recipe.named("small"))


def test_one_key_per_image_is_demanded():
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="one key per image"):
        degrade.degrade(batch_of(2, 32), keys, Recipe.named("small"))
    old = jax.random.split(jax.random.PRNGKey(0), 2)
    with pytest.raises(TypeError, match=r"uint32 \[2, 2\], .*PRNGKey; pass .*split\(jax"):
        degrade.degrade(batch_of(2, 32), old, Recipe.named("small"))


def test_keys_of_other_implementations_draw_for_each_image_alone():
    """Under `jax.vmap` rbg's own draws are those of the first key."""
    recipe, images = Recipe.from_config(RANGES), batch_of(3, 32)
    with jax.default_prng_impl("rbg"):
        keys = jax.random.split(jax.random.key(0), 3)
        assert str(jax.random.key_impl(keys)) == "rbg"
        function = jax.jit(degrade.degrade)
        together = function(images, keys, recipe)
        alone = [function(images[i : i + 1], keys[i : i + 1], recipe) for i in range(3)]
    np.testing.assert_allclose(jnp.concatenate(alone), together, atol=1.01 / 255)
    assert np.mean(jnp.concatenate(alone) == together) > 0.99
    drawn = DRAW(keys, recipe, 32)
    for i in range(3):
        one = degrade.draw(keys[i], recipe, 32)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), drawn, one)


def test_numpy_arrays_are_as_good():
    keys, images = jax.random.split(jax.random.key(0), 2), batch_of(2, 32)
    recipe = Recipe.from_config({"kind": "clean", "colour_shift": {"probability": 1.0}})
    given = degrade.degrade(np.asarray(images), keys, recipe)
    np.testing.assert_array_equal(given, degrade.degrade(images, keys, recipe))


def test_straight_through_gradient_reaches_the_pixels():
    images, keys = batch_of(1, 32), jax.random.split(jax.random.key(0), 1)
    recipe = Recipe.from_config(RANGES)

    def brightness(x):
        return jnp.mean(degrade.degrade(x, keys, recipe, gradient="straight_through"))

    gradient = jax.jit(jax.grad(brightness))(images)
    assert np.all(np.isfinite(gradient))
    # Brightening every pixel by one unit brightens the result by about one.
    assert 0.8 < float(gradient.sum()) < 1.1


def test_named_recipes_are_built_and_others_are_refused():
    for name in degrade.RECIPES:
        recipe = Recipe.named(name)
        if recipe.downsample is not None:
            low, high = recipe.downsample
            assert 1 <= low < high
    with pytest.raises(ValueError, match="'huge'; expected one of large, small, celeba-test"):
        Recipe.named("huge")
