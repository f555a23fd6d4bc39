"""Non-maximum suppression of boxes."""

import numpy as np
from jaxtyping import Float, Int


def suppress(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, "n"], iou: float
) -> Int[np.ndarray, "k"]:
    """Returns the boxes to keep: the best one of every group that overlaps.

    Args:
        boxes: left, top, right and bottom edges.
        scores: confidences.
        iou: a box is dropped if its intersection over union with a better one is larger.

    Returns:
        Indices of the kept boxes, best score first; of equal scores, the earlier one first.
    """
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    kept = []
    while order.size:
        best, others = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[others, :2])
        high = np.minimum(boxes[best, 2:], boxes[others, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        order = others[shared <= iou * (areas[best] + areas[others] - shared)]
    return np.array(kept, np.intp)
