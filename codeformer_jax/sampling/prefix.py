"""A part of a map that stands before anything is drawn."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int32


def check_given(
    given: Any, keep: Any, shape: tuple[int, ...], levels: int, words: tuple[str, str]
) -> tuple[Int32[np.ndarray, "..."], Bool[np.ndarray, "h w"]]:
    """The given maps, 0 where nothing is kept, and the mask of sites that are kept.

    Nothing is kept where neither was given.

    Args:
        given: maps of integers.
        keep: mask of the sites where they stand, or None as `given`.
        shape: that the maps must have, [b, h, w] or [b, h, w, c].
        levels: kept values are 0 to levels - 1.
        words: what an error calls the values, and who draws them.

    Raises:
        ValueError: one without the other, another shape, or a value that is not known.
    """
    values, who = words
    if (given is None) != (keep is None):
        raise ValueError(f"give the {values} to keep (given) and where they lie (keep), or neither")
    if given is None:
        return np.zeros(shape, np.int32), np.zeros(shape[1:3], bool)
    given, keep = np.asarray(given), np.asarray(keep)
    if given.shape != shape or keep.shape != shape[1:3] or keep.dtype != bool:
        raise ValueError(
            f"given {values} {list(given.shape)} and a mask {keep.dtype} {list(keep.shape)}; "
            f"expected {list(shape)} and bool {list(shape[1:3])}"
        )
    kept = given[:, keep]
    if kept.size and not 0 <= kept.min() <= kept.max() < levels:
        raise ValueError(
            f"given {values} from {kept.min()} to {kept.max()}; this {who} knows 0 to {levels - 1}"
        )
    standing = np.zeros(shape, np.int32)
    standing[:, keep] = kept
    return standing, keep
