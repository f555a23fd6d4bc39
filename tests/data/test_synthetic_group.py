"""Group pictures: fixed by their number, with faces where they say."""

import numpy as np
import pytest

from codeformer_jax.data.synthetic import draw_group
from codeformer_jax.faces.detect import DETECTORS


def check_faces(numbers):
    """The detector finds the faces of each scene, and no other."""
    find = DETECTORS["yunet"](None, None)
    for number in numbers:
        group = draw_group(number)
        faces = sorted(find(group.image), key=lambda face: face.centre)
        assert len(faces) == len(group.points)
        for face, points in zip(faces, group.points, strict=True):
            distance = np.linalg.norm(face.points - points, axis=1).mean()
            assert distance * face.crop_scale < 20  # Pixels of the 512-px template.


def test_faces_are_where_they_are_said_to_be():
    check_faces([9])


@pytest.mark.slow
def test_every_face_of_twenty_scenes_is_found():
    check_faces(range(20))


def test_scenes_follow_from_their_number():
    first, again, other = (draw_group(number, 240, 384) for number in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (240, 384, 3)
    assert first.image.dtype == np.uint8


def test_size_does_not_change_a_scene():
    small, large = draw_group(0, 200, 320), draw_group(0, 800, 1280)
    halved = large.image.astype(float).reshape(200, 4, 320, 4, 3).mean(axis=(1, 3))
    assert 10 * np.log10(255**2 / np.mean((small.image - halved) ** 2)) > 30
    np.testing.assert_allclose(4 * (small.points + 0.5), large.points + 0.5, rtol=1e-6)


@pytest.mark.parametrize("shape", [(200, 200), (800, 300), (250, 1200)])
def test_faces_stay_inside_pictures_of_other_shapes(shape):
    for number in range(3):
        group = draw_group(number, *shape)
        assert group.image.shape == (*shape, 3)
        assert (group.points > 0).all()
        assert (group.points < np.array(shape[::-1]) - 1).all()
        sizes = np.linalg.norm(group.points[:, 1] - group.points[:, 0], axis=1)
        assert sizes.max() > 1.2 * sizes.min()


def test_bad_arguments():
    with pytest.raises(ValueError, match="number is -1; give an integer of 0 or more"):
        draw_group(-1)
    with pytest.raises(ValueError, match="height and width are 100 and 400; give at least 200"):
        draw_group(0, 100, 400)
