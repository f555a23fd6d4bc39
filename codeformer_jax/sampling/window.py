"""Position of the transformer's window for each site of a map larger than the trained ones."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32


@dataclass(frozen=True)
class WindowPlan:
    """Windows of all sites, in sampling order: row by row.

    Attributes:
        top, left: first row and column of the window.
        target: index of the site in its window, row-major.
        moved: whether the window differs from that of the site before.
    """

    top: Int32[np.ndarray, "n"]
    left: Int32[np.ndarray, "n"]
    target: Int32[np.ndarray, "n"]
    moved: Bool[np.ndarray, "n"]


def plan_windows(size: tuple[int, int], window: tuple[int, int]) -> WindowPlan:
    """Centres the window on each site; at the borders of the map it stops.

    Args:
        size: rows and columns of the map.
        window: rows and columns of the window.

    Returns:
        The windows of all size[0] * size[1] sites.

    Raises:
        ValueError: if the map is smaller than the window.
    """
    if size[0] < window[0] or size[1] < window[1]:
        raise ValueError(
            f"a map of {size[0]}x{size[1]} codes is smaller than the {window[0]}x{window[1]} that "
            "this prior was trained on; sample at least that and cut it"
        )
    rows, columns = np.indices(size).reshape(2, -1)
    top = np.clip(rows - window[0] // 2, 0, size[0] - window[0])
    left = np.clip(columns - window[1] // 2, 0, size[1] - window[1])
    moved = np.ones(len(rows), bool)
    moved[1:] = (np.diff(top) != 0) | (np.diff(left) != 0)
    target = (rows - top) * window[1] + columns - left
    return WindowPlan(top.astype(np.int32), left.astype(np.int32), target.astype(np.int32), moved)
