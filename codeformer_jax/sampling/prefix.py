"""Codes of a map that are known before sampling."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int32


def check_known(
    known: Any, known_mask: Any, shape: tuple[int, ...], levels: int
) -> tuple[Int32[np.ndarray, "..."], Bool[np.ndarray, "h w"]]:
    """Checks known values and fills them with zeros at the sites to sample.

    Args:
        known: integer maps, or None if nothing is known.
        known_mask: bool [h, w], True at the sites that keep their known values; None with `known`.
        shape: expected shape of the maps, [b, h, w] or [b, h, w, c].
        levels: known values are 0 to levels - 1.

    Returns:
        Maps of `shape` and a mask [h, w]; all False if nothing is known.

    Raises:
        ValueError: if one comes without the other, a shape differs, or a value is out of range.
    """
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask go together: give both, or neither")
    if known is None:
        return np.zeros(shape, np.int32), np.zeros(shape[1:3], bool)
    known, known_mask = np.asarray(known), np.asarray(known_mask)
    if known.shape != shape or known_mask.shape != shape[1:3] or known_mask.dtype != bool:
        raise ValueError(
            f"known has shape {list(known.shape)} and known_mask is {known_mask.dtype} "
            f"{list(known_mask.shape)}; expected {list(shape)} and bool {list(shape[1:3])}"
        )
    values = known[:, known_mask]
    if values.size and not 0 <= values.min() <= values.max() < levels:
        raise ValueError(
            f"known holds values from {values.min()} to {values.max()}; the network has 0 to "
            f"{levels - 1}"
        )
    filled = np.zeros(shape, np.int32)
    filled[:, known_mask] = values
    return filled, known_mask
