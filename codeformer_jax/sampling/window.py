"""Where the window lies for each site of a map that is larger than those of training."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32


@dataclass(frozen=True)
class Plan:
    """The window of every site, in the order in which sites are sampled: row by row.

    Attributes:
        top, left: first row and column of the window.
        target: the site's place in the window, row-major.
        moved: whether the window is another one than that of the site before.
    """

    top: Int32[np.ndarray, "n"]
    left: Int32[np.ndarray, "n"]
    target: Int32[np.ndarray, "n"]
    moved: Bool[np.ndarray, "n"]


def plan_windows(size: tuple[int, int], window: tuple[int, int]) -> Plan:
    """The site in the middle of its window, but for borders, at which the window stops.

    Raises:
        ValueError: a map smaller than the window.
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
    return Plan(top.astype(np.int32), left.astype(np.int32), target.astype(np.int32), moved)
