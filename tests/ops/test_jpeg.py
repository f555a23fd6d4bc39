"""JPEG loss against OpenCV's libjpeg at many sizes and qualities."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.seeded import seeded_image

from codeformer_jax.ops.jpeg import jpeg, quantization_tables

SIDE = 52


def sizes():
    rng = np.random.RandomState(0)
    square = [(n, n) for n in range(1, 21)]
    return square + [tuple(rng.randint(1, SIDE + 1, 2)) for _ in range(60)]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.RandomState(1)
    images = rng.rand(len(sizes()), SIDE, SIDE, 3).astype(np.float32)
    for index, (h, w) in enumerate(sizes()):
        if index % 4:
            images[index, :h, :w] = seeded_image(h, w, index)
    quality = rng.randint(5, 101, len(images))
    quality[:2], quality[30:32] = (100, 5), (5, 100)
    return images, quality.astype(np.int32)


def opencv(image, quality):
    levels = np.round(image[..., ::-1] * 255).astype(np.uint8)
    data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)


def check(coded, batch):
    wrong = total = 0
    for index, (h, w) in enumerate(sizes()):
        image, quality = batch[0][index, :h, :w], batch[1][index]
        levels = np.asarray(coded[index, :h, :w]) * 255
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        difference = np.abs(np.round(levels) - opencv(image, quality))
        # One level is what the last bits of float32 sums can do; a coefficient that is rounded the
        # other way would show as many levels at low quality.
        assert difference.max() <= 1, f"{h}x{w} at quality {quality}"
        wrong, total = wrong + (difference > 0).sum(), total + difference.size
    assert wrong / total < 1e-3


# Run plain in test_degrade.py: operation by operation it compiles for many seconds.
@pytest.mark.parametrize("form", ["jit", "vmap"])
def test_equals_libjpeg_on_canvases(batch, form):
    images, quality = map(jnp.asarray, batch)
    height, width = jnp.asarray(sizes(), jnp.int32).T
    if form == "vmap":
        arguments = (x[:, None] for x in (images, quality, height, width))
        coded = jax.jit(jax.vmap(jpeg))(*arguments)[:, 0]
    else:
        coded = jax.jit(jpeg)(images, quality, height, width)
    check(coded, batch)


@pytest.mark.parametrize("shape", [(16, 16), (33, 50), (3, 3)])
def test_equals_libjpeg_on_whole_images(shape):
    image = seeded_image(*shape, 5)
    coded = jax.jit(jpeg)(jnp.asarray(image)[None], jnp.asarray([35]))[0] * 255
    assert np.abs(np.round(coded) - opencv(image, 35)).max() <= 1


def test_what_lies_beyond_the_valid_corner_does_not_matter(batch):
    images, quality = map(jnp.asarray, batch)
    height, width = jnp.asarray(sizes(), jnp.int32).T
    run = jax.jit(jpeg)
    rows = jnp.arange(SIDE)[None, :, None] < height[:, None, None]
    inside = (rows & (jnp.arange(SIDE)[None, None] < width[:, None, None]))[..., None]
    first = run(images, quality, height, width)
    second = run(jnp.where(inside, images, 0.25), quality, height, width)
    np.testing.assert_array_equal(jnp.where(inside, first, 0), jnp.where(inside, second, 0))


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 99, 100])
def test_tables_equal_the_ones_in_the_file(quality):
    data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), [1, quality])[1].tobytes()
    zigzag = sorted(
        ((r, c) for r in range(8) for c in range(8)),
        key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else p[1]),
    )
    tables = quantization_tables(jnp.asarray([quality]))[0]
    position = 0
    for table in tables:
        position = data.index(b"\xff\xdb", position) + 5
        stored = np.frombuffer(data[position : position + 64], np.uint8)
        np.testing.assert_array_equal([table[p] for p in zigzag], stored)


def test_straight_through_has_the_same_values_and_a_useful_gradient():
    image = jnp.asarray(seeded_image(24, 24, 3))[None]
    quality = jnp.asarray([60])

    def error(x, gradient):
        coded = jpeg(x, quality, gradient=gradient)
        return jnp.mean((coded - 0.5) ** 2), coded

    derivative = jax.jit(jax.value_and_grad(error, has_aux=True), static_argnums=1)
    (zero_error, zero_image), zero_gradient = derivative(image, "zero")
    (_, straight_image), gradient = derivative(image, "straight_through")
    np.testing.assert_array_equal(straight_image, zero_image)
    assert not np.any(zero_gradient)
    assert np.all(np.isfinite(gradient))
    # A step down the slope: 0.1 of the way to flat gray, so about a fifth off the error.
    (stepped_error, _), _ = derivative(image - 0.05 * gradient * image.size, "zero")
    assert stepped_error < 0.9 * zero_error


def test_quality_beyond_the_scale_is_clipped():
    tables = quantization_tables(jnp.asarray([0, 1, 100, 150]))
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_array_equal(tables[2], tables[3])
