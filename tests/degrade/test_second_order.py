"""The second order against the same steps by OpenCV and SciPy, and the laws of its draws."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from parity.seeded import seeded_image

from codeformer_jax import degrade
from codeformer_jax.degrade import Recipe, second_order
from codeformer_jax.degrade.second_order import GAUSSIAN, GENERALIZED, IDENTITY, PLATEAU, SINC
from codeformer_jax.ops.random import standard_normal

SIZE, COUNT, DRAWS = 48, 10, 10_000
RUN = jax.jit(degrade.degrade)
RECIPE = {"kind": "second_order", "downsample": (1.0, 3.0)}
MODES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def batch():
    images = np.stack([seeded_image(SIZE, SIZE, i) for i in range(COUNT)])
    return jnp.asarray(images, jnp.float32), jax.random.split(jax.random.key(2), COUNT)


@pytest.fixture(scope="module")
def drawn(batch):
    """Parameters of each image, and its noise."""
    recipe = Recipe.from_config(RECIPE)
    streams = jax.vmap(jax.random.split)(batch[1])
    parameters = jax.jit(jax.vmap(lambda key: degrade.draw(key, recipe, SIZE)))(streams[:, 0])
    noise = np.asarray(standard_normal(streams[:, 1], 72, 72, 6))
    parameters = jax.tree.map(np.asarray, parameters)
    return [jax.tree.map(lambda x, i=i: x[i], parameters) for i in range(COUNT)], noise


def resize(image, side, mode):
    if MODES[mode] != cv2.INTER_AREA or side <= len(image):
        return cv2.resize(image, (side, side), interpolation=MODES[mode])
    # OpenCV enlarges otherwise by this name: here it is the mean over the footprint.
    fine = np.kron(image.transpose(2, 0, 1), np.ones((side, side)))
    return fine.reshape(3, side, len(image), side, len(image)).mean((2, 4)).transpose(1, 2, 0)


def blur(image, kernel):
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], kernel)
    taps = np.asarray(second_order._kernels(stacked)[0])
    # OpenCV reflects no further than one picture, NumPy as far as it takes.
    padded = np.pad(image, ((10, 10), (10, 10), (0, 0)), mode="reflect")
    return cv2.filter2D(padded.astype(np.float64), -1, taps.astype(np.float64))[10:-10, 10:-10]


def add_noise(image, p, normal):
    image = np.clip(image, 0, 1)
    normal = normal[: len(image), : len(image)].astype(np.float64)
    if p.gray_noise:
        normal = np.repeat(normal[..., :1], 3, axis=-1)
    if p.noise_sigma > 0:
        return np.clip(image + p.noise_sigma * normal, 0, 1)
    gray = (image @ [0.299, 0.587, 0.114])[..., None]
    light = np.broadcast_to(gray, image.shape) if p.gray_noise else image
    counts = scipy.stats.poisson.ppf(scipy.stats.norm.cdf(normal), light * 256)
    return np.clip(image + p.poisson * (np.maximum(counts, 0) / 256 - light), 0, 1)


def jpeg(image, quality):
    levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)[..., ::-1]
    coded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return cv2.imdecode(coded, 1)[..., ::-1] / 255


def reference(image, p, noise):
    """The steps in order, one image, in float64."""
    first, second = p.rounds.first, p.rounds.second
    x = resize(blur(image.astype(np.float64), first.kernel), int(first.side), first.mode)
    x = jpeg(add_noise(x, first, noise[..., :3]), first.jpeg_quality)
    x = resize(blur(x, second.kernel), int(second.side), second.mode)
    x = add_noise(x, second, noise[..., 3:])
    if not p.rounds.jpeg_last:
        x = jpeg(x, second.jpeg_quality)
    x = np.clip(blur(resize(x, int(p.small_size), p.rounds.mode), p.rounds.kernel), 0, 1)
    if p.rounds.jpeg_last:
        x = jpeg(x, second.jpeg_quality)
    return np.round(np.clip(cv2.resize(x, (SIZE, SIZE)), 0, 1) * 255)


def test_a_whole_draw_equals_the_same_steps_by_other_libraries(batch, drawn):
    ours = np.asarray(RUN(*batch, Recipe.from_config(RECIPE))) * 255
    np.testing.assert_allclose(ours, np.round(ours), atol=1e-4)
    errors = []
    for index, p in enumerate(drawn[0]):
        expected = reference(np.asarray(batch[0][index]), p, drawn[1][index])
        errors.append(np.abs(ours[index] - expected).mean())
        assert np.abs(expected / 255 - batch[0][index]).mean() > 0.005  # It was degraded.
    # A count or a coefficient that falls on the other side of a half moves a few pixels.
    assert np.median(errors) < 0.1, errors
    assert max(errors) < 0.5, errors
    # Both orders, both noises and at least three kernels were among them.
    rounds = [p.rounds for p in drawn[0]]
    assert {bool(r.jpeg_last) for r in rounds} == {True, False}
    assert {bool(r.first.noise_sigma > 0) for r in rounds} == {True, False}
    assert len({int(r.first.kernel.shape) for r in rounds}) >= 2


def test_given_parameters_and_noise_make_the_same_picture(batch, drawn):
    parameters = jax.tree.map(lambda *values: jnp.asarray(np.stack(values)), *drawn[0])
    applied = jax.jit(degrade.apply)(batch[0], parameters, jnp.asarray(drawn[1]))
    once = RUN(*batch, Recipe.from_config(RECIPE))
    assert np.mean(np.abs(applied - once) * 255) < 0.05


def test_an_image_depends_on_its_own_key_and_pixels_only(batch):
    images, keys = batch
    recipe = Recipe.from_config(RECIPE)
    together = RUN(images, keys, recipe)
    order = jnp.asarray([3, 0, 4, 2, 1, 9, 8, 7, 6, 5])
    np.testing.assert_array_equal(RUN(images[order], keys[order], recipe), together[order])
    changed = RUN(images.at[1].set(0.5), keys.at[0].set(jax.random.key(99)), recipe)
    np.testing.assert_array_equal(changed[2:], together[2:])
    assert np.any(changed[0] != together[0])


def test_other_numbers_do_not_recompile(batch):
    RUN(*batch, Recipe.from_config(RECIPE))
    compiled = RUN._cache_size()
    changed = {**RECIPE, "first": {"noise": (0, 2)}, "second": {"blur": 0.0}, "final_sinc": 0.0}
    RUN(*batch, Recipe.from_config(changed))
    assert RUN._cache_size() == compiled


@pytest.mark.slow
def test_extras_go_with_it(batch):
    extras = {"gray": 1.0, "mask": {"strokes": (1, 1), "width": (9, 9)}}
    ours = RUN(*batch, Recipe.from_config({**RECIPE, **extras}))
    assert np.all(ours == ours[..., :1])
    assert np.all(jnp.max(ours, (1, 2, 3)) == 1)


# Not run plain: operation by operation it compiles for a minute.
@pytest.mark.slow
def test_vmapped_agrees_with_jitted(batch):
    images, keys = batch
    recipe = Recipe.from_config(RECIPE)
    jitted = RUN(images, keys, recipe)
    grouped = images.reshape(2, -1, SIZE, SIZE, 3), keys.reshape(2, -1)
    mapped = jax.jit(jax.vmap(degrade.degrade, in_axes=(0, 0, None)))(*grouped, recipe)
    assert np.mean(np.abs(mapped.reshape(jitted.shape) - jitted) * 255) < 0.05


@pytest.mark.slow
def test_straight_through_gradient_is_finite(batch):
    recipe = Recipe.from_config(RECIPE)

    def brightness(x):
        return jnp.mean(degrade.degrade(x, batch[1][:1], recipe, gradient="straight_through"))

    gradient = jax.jit(jax.grad(brightness))(batch[0][:1])
    assert np.all(np.isfinite(gradient))
    assert 0.5 < float(gradient.sum()) < 1.5


@pytest.fixture(scope="module")
def laws():
    recipe = Recipe.named("second_order")
    keys = jax.random.split(jax.random.key(11), DRAWS)
    drawn = jax.jit(jax.vmap(lambda key: degrade.draw(key, recipe, 4096)))(keys)
    return jax.tree.map(np.asarray, drawn)


def assert_uniform(values, low, high):
    assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3


def assert_share(chosen, probability):
    deviation = np.sqrt(probability * (1 - probability) / len(chosen))
    assert abs(np.mean(chosen) - probability) <= 4 * deviation


@pytest.mark.parametrize(
    ("name", "blur", "sigma", "up", "down", "noise", "poisson"),
    [
        ("first", 1.0, 3.0, 0.2, 0.7, 30.0, 3.0),
        ("second", 0.8, 1.5, 0.3, 0.4, 25.0, 2.5),
    ],
)
def test_rounds_follow_the_papers_laws(laws, name, blur, sigma, up, down, noise, poisson):
    drawn = getattr(laws.rounds, name)
    kernel, shape = drawn.kernel, drawn.kernel.shape
    assert_share(shape != IDENTITY, blur)
    blurred = shape[shape != IDENTITY]
    assert_share(blurred == SINC, 0.1)
    for value, share in ((GAUSSIAN, 0.7), (GENERALIZED, 0.15), (PLATEAU, 0.15)):
        assert_share(blurred[blurred != SINC] == value, share)
    assert_uniform(kernel.sigma_x, 0.2, sigma)
    turned = kernel.sigma_x != kernel.sigma_y
    assert_share(turned, 0.31)
    assert_uniform(kernel.theta[turned], -np.pi, np.pi)
    assert np.all(kernel.beta[shape == GAUSSIAN] == 1)
    assert_uniform(kernel.beta[shape == GENERALIZED], 0.5, 4)
    assert_uniform(kernel.beta[shape == PLATEAU], 1, 2)
    assert scipy.stats.chisquare(np.bincount(kernel.radius, minlength=11)[3:]).pvalue > 1e-3
    assert_uniform(kernel.cutoff[kernel.radius >= 6], np.pi / 5, np.pi)
    assert_uniform(kernel.cutoff[kernel.radius < 6], np.pi / 3, np.pi)

    whole = np.full(DRAWS, 4096) if name == "first" else laws.small_size
    scale = drawn.side / whole
    assert_share(drawn.side > whole, up)
    assert_share(drawn.side < whole, down)
    lowest, highest = (0.15, 1.5) if name == "first" else (0.3, 1.2)
    # The side is cut to whole pixels, of which there are a thousand and more.
    assert_uniform(scale[scale > 1.001], 1, highest)
    assert_uniform(scale[scale < 0.999], lowest, 1)
    assert scipy.stats.chisquare(np.bincount(drawn.mode)).pvalue > 1e-3

    gaussian = drawn.noise_sigma > 0
    assert_share(gaussian, 0.5)
    assert np.all((drawn.poisson == 0) == gaussian)
    assert_uniform(drawn.noise_sigma[gaussian] * 255, 1, noise)
    assert_uniform(drawn.poisson[~gaussian], 0.05, poisson)
    assert_share(drawn.gray_noise, 0.4)
    assert scipy.stats.chisquare(np.bincount(drawn.jpeg_quality)[30:]).pvalue > 1e-3


def test_the_end_follows_the_papers_laws(laws):
    last = laws.rounds.kernel
    assert_share(last.shape == SINC, 0.8)
    assert_share(laws.rounds.jpeg_last, 0.5)
    assert_uniform(last.cutoff, np.pi / 3, np.pi)
    assert scipy.stats.chisquare(np.bincount(laws.rounds.mode)).pvalue > 1e-3
    assert_uniform(4096 / laws.small_size, 2, 4)
    assert laws.small_size.dtype == np.int32


def test_rounds_are_independent(laws):
    one, two = laws.rounds.first, laws.rounds.second
    columns = [one.kernel.sigma_x, two.kernel.sigma_x, one.jpeg_quality, two.jpeg_quality]
    columns += [one.side, two.side / laws.small_size, one.mode, two.mode, laws.rounds.mode]
    correlation = np.corrcoef(np.array(columns, np.float64))
    assert np.abs(correlation - np.eye(len(columns))).max() < 0.05
