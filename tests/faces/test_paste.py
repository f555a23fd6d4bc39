"""Pasting: what the network changed, where the mask says, and nothing else."""

import dataclasses
import tracemalloc

import cv2
import numpy as np
import pytest
from faces.test_align import similarity, stripes
from parity.seeded import seeded_image

from codeformer_jax.faces.align import cut, scaled
from codeformer_jax.faces.detail import kept_detail
from codeformer_jax.faces.face import apply, invert, scale_of
from codeformer_jax.faces.masks import hull_mask, square_mask
from codeformer_jax.faces.paste import Patch, paste

SIZE = 128
TOP = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


def scene(height=240, width=320, dtype=np.uint8, gray=False, grain=0.02):
    """A smooth picture with some grain."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(seeded_image(height, width, 0), (0, 0), 3)
    image = np.clip(image + rng.normal(0, grain, image.shape), 0.1, 0.9)
    image = np.rint(image * TOP[dtype]) if dtype != np.float32 else image
    return (image[..., 0] if gray else image).astype(dtype)


def brighter(crop, by):
    """The crop as a network might return it: float32 in 0..1."""
    return np.clip(crop.astype(np.float32) / TOP[crop.dtype.type] + by, 0, 1).astype(np.float32)


def patch(picture, transform, mask=None, change=lambda crop: crop):
    mask = hull_mask(SIZE) if mask is None else mask
    return Patch(transform, change(cut(picture, transform, mask.shape[0])), mask)


@pytest.mark.parametrize("dtype", TOP)
@pytest.mark.parametrize("gray", [False, True])
def test_the_identity_changes_no_bit(dtype, gray):
    picture = scene(dtype=dtype, gray=gray)
    places = [(3.0, 10, (150, 120)), (0.7, -30, (200, 100)), (0.3, 5, (10, 20)), (1, 0, (330, 90))]
    patches = [patch(picture, similarity(s, d, c, SIZE)) for s, d, c in places]
    result = picture.copy()
    paste(result, patches)
    np.testing.assert_array_equal(result, picture)


@pytest.mark.parametrize("dtype", TOP)
@pytest.mark.parametrize("detail", [True, False])
@pytest.mark.parametrize("scale", [0.6, 2.0])
def test_a_change_arrives_in_place_and_in_size(dtype, detail, scale):
    picture = scene(dtype=dtype)
    transform = similarity(scale, 20, (160, 120), SIZE)
    result = picture.copy()
    new = patch(picture, transform, square_mask(SIZE), lambda crop: brighter(crop, 0.05))
    paste(result, [new], detail=detail)
    change = (result.astype(np.float64) - picture) / TOP[dtype]
    y, x = np.mgrid[:240, :320]
    square = apply(transform, np.stack([x.ravel(), y.ravel()], -1).astype(np.float64))
    distance = np.hypot(*(square - (SIZE - 1) / 2).T).reshape(240, 320)
    inside = change[distance < SIZE / 3]
    assert np.abs(inside.mean() - 0.05) < 0.001
    if detail:
        assert np.abs(inside - 0.05).max() < (0.5 if dtype == np.uint8 else 0.002) * 2 / 255
    assert (change[distance > SIZE * 0.72] == 0).all()
    assert result.dtype == dtype


def test_detail_finer_than_the_crop_survives():
    picture = np.rint(stripes(0.3, 600) * 255).astype(np.uint8)
    transform = similarity(0.2, 0, (300, 300), SIZE)
    new = patch(picture, transform, change=lambda crop: brighter(crop, 0.03))
    kept, replaced = picture.copy(), picture.copy()
    paste(kept, [new])
    paste(replaced, [new], detail=False)
    middle = (slice(280, 320), slice(280, 320))
    assert kept[middle].std() > 0.98 * picture[middle].std()
    assert replaced[middle].std() < 0.05 * picture[middle].std()


@pytest.mark.parametrize("dtype", TOP)
def test_a_sharp_face_changes_no_bit_of_its_own(dtype):
    picture = scene(dtype=dtype)
    places = similarity(0.9, 10, (140, 120), SIZE), similarity(0.8, 0, (190, 130), SIZE)
    behind, front = (patch(picture, t, change=lambda crop: brighter(crop, 0.1)) for t in places)
    sharp = dataclasses.replace(front, sharpness=1.0)
    result = picture.copy()
    paste(result, [behind, sharp])
    # The middle of the front face also lies in the other one's crop.
    atol = 1e-6 if dtype == np.float32 else 0
    np.testing.assert_allclose(result[125:135, 180:190], picture[125:135, 180:190], 0, atol)
    assert (result[110:120, 120:130] != picture[110:120, 120:130]).any()
    replaced = picture.copy()
    paste(replaced, [sharp], detail=False)
    assert (replaced != picture).any()


def test_a_face_that_is_sharp_in_part_is_blended():
    picture = scene(dtype=np.float32)
    new = patch(picture, similarity(0.4, 10, (160, 120), SIZE), change=lambda c: brighter(c, 0.05))
    restored, part = picture.copy(), picture.copy()
    paste(restored, [new])
    paste(part, [dataclasses.replace(new, sharpness=0.25)])
    assert np.abs(part - (0.25 * picture + 0.75 * restored)).max() < 1e-5


def by_definition(picture, patches):
    """The definition at full picture size: back to front, each over the original picture."""
    result = picture.astype(np.float64)
    for p in patches:
        size = picture.shape[1::-1]
        crop = cut(picture, p.transform, p.mask.shape[0]).astype(np.float32)
        restored = p.restored.astype(np.float32) * 255
        kept = kept_detail(restored, crop, scale_of(p.transform), 255.0)
        restored = p.sharpness * crop + (1 - p.sharpness) * restored
        kept = p.sharpness + (1 - p.sharpness) * kept
        inverse = invert(p.transform)
        back = [
            cv2.warpAffine(a, inverse, size, flags=cv2.INTER_CUBIC)
            for a in (restored - kept[..., None] * crop, p.mask, kept)
        ]
        mask = np.clip(back[1], 0, 1)[..., None]
        result = (1 - mask) * result + mask * (back[0] + back[2][..., None] * picture)
    return result


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_noise_that_the_network_removed_does_not_come_back(scale):
    clean = cv2.GaussianBlur(scene(), (0, 0), 4).astype(np.float32) / 255
    noise = 0.08 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    noisy = np.clip(clean + noise, 0, 1)
    transform = similarity(scale, 10, (160, 120), SIZE)
    restored = Patch(transform, cut(clean, transform, SIZE), square_mask(SIZE))
    result = noisy.copy()
    paste(result, [restored])
    middle = (slice(110, 130), slice(150, 170))
    assert np.std((result - clean)[middle]) < 0.25 * np.std((noisy - clean)[middle])


def test_overlapping_faces_follow_the_definition():
    picture = scene()
    smooth = [cv2.GaussianBlur(seeded_image(SIZE, SIZE, seed), (0, 0), 6) for seed in (1, 2, 3)]
    places = [(0.9, 10, (140, 120)), (1.0, -20, (180, 110)), (0.8, 0, (160, 150))]
    patches = [
        Patch(similarity(s, d, c, SIZE), image, square_mask(SIZE), sharpness)
        for (s, d, c), image, sharpness in zip(places, smooth, (0.0, 0.0, 0.4), strict=True)
    ]
    result = picture.copy()
    paste(result, patches)
    gaps = np.abs(result - by_definition(picture, patches))
    assert gaps.max() < 4
    assert gaps.mean() < 0.3
    swapped = picture.copy()
    paste(swapped, patches[::-1])
    assert np.abs(swapped.astype(int) - result).max() > 40


def moved(name, picture, transform):
    """A picture moved in some way, its face's transform, and how the result moves."""
    height, width = picture.shape[:2]
    if name == "shifted":
        shift = np.array([[0, 0, 64], [0, 0, 32]])
        there = np.column_stack([transform[:, :2], transform[:, 2] - transform[:, :2] @ [64, 32]])
        return np.pad(picture, ((32, 0), (64, 0), (0, 0))), there, lambda r: r[shift[1, 2] :, 64:]
    if name == "turned":  # (x, y) of the turned picture lies at (width - 1 - y, x).
        turn = np.array([[0.0, -1], [1, 0]])
        offset = transform[:, :2] @ [width - 1, 0] + transform[:, 2]
        there = np.column_stack([transform[:, :2] @ turn, offset])
        return np.ascontiguousarray(np.rot90(picture)), there, lambda r: np.rot90(r, -1)
    if name == "flipped":
        flip = np.array([[-1.0, 0], [0, 1]])
        offset = transform[:, :2] @ [width - 1, 0] + transform[:, 2]
        there = np.column_stack([transform[:, :2] @ flip, offset])
        return np.ascontiguousarray(picture[:, ::-1]), there, lambda r: r[:, ::-1]
    doubled = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    halve = lambda r: cv2.resize(r, (width, height), interpolation=cv2.INTER_AREA)  # noqa: E731
    return doubled, scaled(transform, 2), halve


@pytest.mark.parametrize("scale", [0.6, 1.3, 2.6])
@pytest.mark.parametrize(
    ("name", "most", "mean"),
    [("shifted", 0, 0), ("turned", 1, 0.001), ("flipped", 1, 0.001), ("doubled", 2, 0.2)],
)
def test_the_result_moves_with_the_picture(name, scale, most, mean):
    """Crops and results agree within `most` levels, and `mean` on average."""
    picture = scene(340, 380, grain=0 if name == "doubled" else 0.02)
    transform = similarity(scale, 20, (190.0, 165.0), SIZE)

    def restored(picture, transform):
        new = patch(picture, transform, change=lambda crop: brighter(crop[..., ::-1], 0.02))
        result = picture.copy()
        paste(result, [new])
        return result, new.restored

    result, crop = restored(picture, transform)
    other, there, back = moved(name, picture, transform)
    result_there, crop_there = restored(other, there)
    assert np.abs(result.astype(int) - picture).max() > 10
    for ours, theirs in ((crop * 255, crop_there * 255), (result, back(result_there))):
        gaps = np.abs(ours.astype(np.float64) - theirs)
        assert gaps.max() <= most + 1e-3
        assert gaps.mean() <= mean + 1e-4


def test_five_faces_in_a_large_picture_allocate_little():
    picture = np.zeros((8000, 10_000, 3), np.uint8)
    crop, mask = np.full((512, 512, 3), 200, np.uint8), hull_mask(512)
    patches = [
        Patch(similarity(0.8, 10, (1000 + 1500 * n, 4000), 512), crop, mask) for n in range(5)
    ]
    tracemalloc.start()
    try:
        paste(picture, patches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert picture[4000, 7000, 0] == 200
    assert peak < 80 * 2**20  # The picture takes 229 MiB.


def test_a_face_wider_than_opencvs_limit():
    picture = np.full((40, 40_000), 100, np.uint8)
    transform = similarity(SIZE / 42_000, 0, (20_000, 20), SIZE)
    paste(picture, [patch(picture, transform, change=lambda crop: brighter(crop, 0.1))])
    assert picture[20, 20_000] in (125, 126)
    assert picture[20, 10] == 100


def test_faces_at_the_border_and_outside():
    picture = scene()
    for centre, changes in (((2, 3), True), ((2000, 100), False)):
        result = picture.copy()
        new = patch(picture, similarity(1, 15, centre, SIZE), change=lambda c: brighter(c, 0.2))
        paste(result, [new])
        assert (result != picture).any() == changes


@pytest.mark.parametrize(
    ("restored", "message"),
    [
        (np.zeros((SIZE, SIZE), np.uint8), "expected"),
        (np.zeros((64, 64, 3), np.uint8), "expected"),
        (np.full((SIZE, SIZE, 3), np.nan, np.float32), "non-finite"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_before_anything_is_pasted(restored, message):
    picture = scene()
    good = patch(picture, similarity(1, 0, (100, 100), SIZE), change=lambda c: brighter(c, 0.2))
    bad = Patch(similarity(1, 0, (200, 100), SIZE), restored, hull_mask(SIZE))
    result = picture.copy()
    with pytest.raises(ValueError, match=f"patch 1.*{message}"):
        paste(result, [good, bad])
    np.testing.assert_array_equal(result, picture)
