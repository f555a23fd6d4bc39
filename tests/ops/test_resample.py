"""Resizing by a traced filter against cv2.resize."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codeformer_jax.ops.resize import AREA, BICUBIC, BILINEAR, resample

RNG = np.random.RandomState(0)
FLAGS = {AREA: cv2.INTER_AREA, BILINEAR: cv2.INTER_LINEAR, BICUBIC: cv2.INTER_CUBIC}
CANVAS, OUTPUT = 40, 60
SHRINK = [(40, 40), (40, 20), (40, 13), (33, 32), (31, 7), (40, 1), (2, 1)]
ENLARGE = [(40, 60), (17, 60), (7, 31), (2, 5), (1, 4)]


def cases(mode):
    sizes = SHRINK if mode == AREA else SHRINK + ENLARGE
    return [np.array(column, np.int32) for column in zip(*sizes, strict=True)]


@pytest.mark.parametrize("mode", FLAGS)
@pytest.mark.parametrize("form", ["plain", "jit", "vmap"])
def test_matches_opencv(mode, form):
    source, target = cases(mode)
    images = RNG.rand(len(source), CANVAS, CANVAS, 3).astype(np.float32)

    def run(*given):
        return resample(*given, canvas=OUTPUT)

    given = [jnp.asarray(v) for v in (images, source, target, np.full_like(source, mode))]
    if form == "vmap":
        ours = jax.vmap(run)(*(v[:, None] for v in given))[:, 0]
    else:
        ours = (jax.jit(run) if form == "jit" else run)(*given)
    for result, image, s, t in zip(ours, images, source, target, strict=True):
        expected = cv2.resize(image[:s, :s], (int(t), int(t)), interpolation=FLAGS[mode])
        np.testing.assert_allclose(result[:t, :t], expected, atol=2e-5, err_msg=f"{s} to {t}")


def test_enlarging_by_area_is_the_mean_over_the_footprint():
    images = jnp.asarray(RNG.rand(1, 4, 4, 1), jnp.float32)
    four, six, area = (jnp.asarray([v]) for v in (4, 6, AREA))
    ours = resample(images, four, six, area, canvas=6)[0, :, :, 0]
    # Twelve parts a side: each input is three of them, each output two.
    fine = np.kron(np.asarray(images[0, :, :, 0]), np.ones((3, 3)))
    expected = fine.reshape(6, 2, 6, 2).mean((1, 3))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("mode", FLAGS)
def test_what_lies_beyond_the_source_does_not_matter(mode):
    images = jnp.asarray(RNG.rand(1, CANVAS, CANVAS, 3), jnp.float32)
    other = images.at[:, 25:].set(9.0).at[:, :, 25:].set(9.0)
    sizes = [jnp.asarray([v]) for v in (25, 18, mode)]
    results = [resample(i, *sizes, canvas=OUTPUT) for i in (images, other)]
    np.testing.assert_array_equal(*results)
    # Beyond the target the edge goes on.
    edge = results[0][:, 17:18]
    np.testing.assert_allclose(
        results[0][:, 18:], np.broadcast_to(edge, (1, 42, OUTPUT, 3)), atol=1e-6
    )


def test_one_program_for_all_filters():
    run = jax.jit(lambda m: resample(jnp.ones((1, 8, 8, 1)), *given, m, canvas=8))
    given = (jnp.asarray([8]), jnp.asarray([5]))
    for mode in FLAGS:
        np.testing.assert_allclose(run(jnp.asarray([mode])), 1.0, atol=1e-6)
    assert run._cache_size() == 1
