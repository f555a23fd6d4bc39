"""What `codeformer-jax sample` is asked for in words: sizes, classes, the part to keep."""

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

_HALF = 0.5


@dataclass(frozen=True)
class Keep:
    """The part of a map that stands: `share` of its rows from the top, or columns from the left."""

    side: str
    share: float

    def mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """True where the codes of a map are kept.

        Raises:
            ValueError: where that is none of them, or all.
        """
        axis = 0 if self.side == "top" else 1
        lines, what = size[axis], ("rows", "columns")[axis]
        number = round(self.share * lines)
        if not 0 < number < lines:
            raise ValueError(
                f"--keep {self.side}:{self.share:g} keeps {number} of the map's {lines} {what}: "
                "nothing is left to draw or to go on from; give another share"
            )
        mask = np.zeros(size, bool)
        mask[(slice(None),) * axis + (slice(number),)] = True
        return mask


def parse_keep(text: str) -> Keep:
    """'top-half', 'left-half', 'top:0.3' or 'left:0.3'.

    Raises:
        ValueError: anything else; parts that lie behind the others are refused by name.
    """
    match = re.fullmatch(r"(top|left|bottom|right)(-half|:(.+))", text)
    if match and match[1] in ("bottom", "right"):
        raise ValueError(
            f"--keep {text}: a prior draws row by row from the top left and sees what lies before "
            "a code only, so that the rest would not know of this part; keep 'top' or 'left'"
        )
    try:
        share = _HALF if match[2] == "-half" else float(match[3])
    except (TypeError, ValueError):
        share = 0.0
    if match is None or not 0 < share < 1:
        raise ValueError(
            f"--keep is {text!r}; expected top-half, left-half, or a share such as top:0.3 or "
            "left:0.3"
        )
    return Keep(match[1], share)


def parse_size(text: str) -> tuple[int, int]:
    """'256x384' -> (256, 384), height and width in pixels; '256' is a square.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(size) < 1:
        raise ValueError(
            f"--size is {text!r}; expected height and width in pixels, such as 256x384, or one "
            "number for a square"
        )
    return size


def parse_classes(text: str) -> tuple[int, ...] | None:
    """'3' -> (3,), '0,3,7' -> (0, 3, 7), 'all' -> None.

    Raises:
        ValueError: anything else.
    """
    if text == "all":
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--class is {text!r}; expected a number, several such as 0,3,7, or all"
        ) from None


def spread(classes: tuple[int, ...], number: int) -> tuple[int, ...]:
    """A class for each of `number` samples: as many of each as can be, beside each other.

    Where there are more classes than samples, classes from the whole range.
    """
    return tuple(classes[index * len(classes) // number] for index in range(number))
