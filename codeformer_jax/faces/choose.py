"""Choice of the faces to restore."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from codeformer_jax.faces.face import Face

WHICH = ("all", "largest", "center")
_EXPECTED = "expected all, largest, center or numbers such as 1,3"

Skipped = Literal["", "unchosen", "small", "beyond_max"]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A detected face and why it is skipped, if it is.

    Attributes:
        number: from 1, larger faces first; it does not depend on the choice.
        face: the face.
        reason: why it is skipped, for users; None for a chosen one.
        skipped: why it is skipped, for programs; '' for a chosen one.
    """

    number: int
    face: Face
    reason: str | None = None
    skipped: Skipped = ""


def choose(
    faces: Sequence[Face],
    shape: tuple[int, int],
    which: str,
    *,
    min_size: float,
    max_faces: int,
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
    if numbers := _numbers(which):
        _check_present(numbers, which, len(ordered))
        skipped = {
            i: ("unchosen", "not chosen") for i in range(1, len(ordered) + 1) if i not in numbers
        }
    else:
        skipped = {
            i: ("small", f"its eyes are {distance:.1f} px apart, less than min_size {min_size:g}")
            for i, face in enumerate(ordered, 1)
            if (distance := eye_distance(face)) < min_size
        }
        if which != "all":
            _keep_one(ordered, skipped, shape, which)
    left = [i for i in range(1, len(ordered) + 1) if i not in skipped]
    left.sort(key=lambda i: -ordered[i - 1].score)
    for i in left[max_faces:]:
        skipped[i] = ("beyond_max", f"max_faces is {max_faces}, and others have better scores")
    choices = []
    for i, face in enumerate(ordered, 1):
        kind, reason = skipped.get(i, ("", None))
        choices.append(Choice(i, face, reason, kind))
    return tuple(choices)


def check_which(which: str) -> None:
    """Raises ValueError unless `which` is one that `choose` takes, for some picture."""
    _numbers(which)


def eye_distance(face: Face) -> float:
    """Returns the distance of the eyes in pixels."""
    return float(np.linalg.norm(face.points[1] - face.points[0]))


def _numbers(which: str) -> set[int]:
    """Returns the numbers in `which`, or an empty set for a word of `WHICH`."""
    if which in WHICH:
        return set()
    try:
        numbers = {int(number) for number in which.split(",")}
    except ValueError:
        raise ValueError(f"faces is {which!r}; {_EXPECTED}") from None
    if min(numbers) < 1:
        raise ValueError(f"faces is {which!r}, but numbers begin at 1; {_EXPECTED}")
    return numbers


def _check_present(numbers: set[int], which: str, count: int) -> None:
    """Raises ValueError if a number exceeds the count of faces."""
    if absent := sorted(number for number in numbers if number > count):
        found = f"the picture has faces 1 to {count}" if count > 1 else f"{count} found"
        raise ValueError(
            f"faces is {which!r}, but there is no face {absent[0]}; {found}. A dry run shows the "
            "numbers"
        )


def _keep_one(
    faces: list[Face],
    skipped: dict[int, tuple[Skipped, str]],
    shape: tuple[int, int],
    which: str,
) -> None:
    """Skips all but the largest or the most central of the faces that are left."""
    left = [i for i in range(1, len(faces) + 1) if i not in skipped]
    middle = (np.array(shape[::-1]) - 1) / 2
    if which == "center":
        left.sort(key=lambda i: float(np.hypot(*(faces[i - 1].centre - middle))))
    skipped |= dict.fromkeys(left[1:], ("unchosen", f"not the {which} face"))
