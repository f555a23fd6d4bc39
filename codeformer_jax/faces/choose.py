"""Choice of the faces to restore."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from codeformer_jax.faces.face import Face

WHICH = ("all", "largest", "center")
# Least distance of the eyes in pixels. The published pipeline takes 5; such faces have no features
# to restore.
MIN_SIZE = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A face of a picture, and why it is left as it is.

    Attributes:
        number: from 1, larger faces first; it does not depend on the choice.
        face: the face.
        reason: why it is not restored; None for a chosen one.
    """

    number: int
    face: Face
    reason: str | None = None


def choose(
    faces: Sequence[Face],
    shape: tuple[int, int],
    which: str = "all",
    *,
    min_size: float = MIN_SIZE,
    max_faces: int = 100,
) -> tuple[Choice, ...]:
    """Numbers the faces of a picture and chooses those to restore.

    Args:
        faces: in any order.
        shape: height and width of the picture.
        which: 'all', 'largest', 'center' (whose box's centre is nearest to the picture's), or
            numbers such as '1,3'. The largest and the central one are taken among the faces of
            `min_size`.
        min_size: faces whose eyes are closer than this many pixels are left out, unless they are
            chosen by number.
        max_faces: faces to restore at most, those with the best scores.

    Returns:
        Every face, in the order of its number.

    Raises:
        ValueError: if `which` is none of these, or a number has no face.
    """
    ordered = sorted(faces, key=lambda face: (-face.size, *face.centre))
    numbers = _parse_numbers(which, len(ordered))
    if numbers:
        reasons = {i: "not chosen" for i in range(1, len(ordered) + 1) if i not in numbers}
    else:
        reasons = {
            i: f"its eyes are {distance:.1f} px apart, less than min_size {min_size:g}"
            for i, face in enumerate(ordered, 1)
            if (distance := eye_distance(face)) < min_size
        }
        if which != "all":
            _keep_one(ordered, reasons, shape, which)
    left = [i for i in range(1, len(ordered) + 1) if i not in reasons]
    left.sort(key=lambda i: -ordered[i - 1].score)
    for i in left[max_faces:]:
        reasons[i] = f"max_faces is {max_faces}, and others have better scores"
    return tuple(Choice(i, face, reasons.get(i)) for i, face in enumerate(ordered, 1))


def eye_distance(face: Face) -> float:
    """Returns the distance of the eyes in pixels."""
    return float(np.linalg.norm(face.points[1] - face.points[0]))


def _parse_numbers(which: str, count: int) -> set[int]:
    """Returns the numbers in `which`, or an empty set for a word of `WHICH`."""
    if which in WHICH:
        return set()
    try:
        numbers = {int(number) for number in which.split(",")}
    except ValueError:
        raise ValueError(
            f"faces is {which!r}; expected all, largest, center or numbers such as 1,3"
        ) from None
    if absent := sorted(number for number in numbers if not 1 <= number <= count):
        found = f"the picture has faces 1 to {count}" if count > 1 else f"{count} found"
        raise ValueError(
            f"faces is {which!r}, but there is no face {absent[0]}; {found}. A dry run shows the "
            "numbers"
        )
    return numbers


def _keep_one(faces: list[Face], reasons: dict[int, str], shape: tuple[int, int], which: str):
    """Adds a reason for all but the largest or the most central face without one."""
    left = [i for i in range(1, len(faces) + 1) if i not in reasons]
    middle = (np.array(shape[::-1]) - 1) / 2
    if which == "center":
        left.sort(key=lambda i: float(np.hypot(*(faces[i - 1].centre - middle))))
    reasons |= dict.fromkeys(left[1:], f"not the {which} face")
