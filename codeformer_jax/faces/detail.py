"""Share of fine detail that pasting keeps."""

import cv2
import numpy as np
from jaxtyping import Float32

# Standard deviations of two Gaussians, in pixels of the coarser of picture and crop. The first one
# removes the finest structure; the second one averages over a neighbourhood.
_FINEST, _AROUND = 1.5, 3.0
# Squared contrast, as a share of white's square, below which structure does not count.
_NOTHING = 1e-6


def kept_detail(
    restored: Float32[np.ndarray, "s s *c"],
    reference: Float32[np.ndarray, "s s *c"],
    crop_scale: float,
    white: float,
) -> Float32[np.ndarray, "s s"]:
    """Returns the share of the reference's finest structure that a network kept, in [0, 1].

    It is the slope of a local regression of the result's finest structure on the reference's:
    1 where they are equal, and 0 where noise was removed or other texture invented. The same
    share applies to detail finer than the crop.

    Args:
        restored: the network's result.
        reference: the crop that it was made from.
        crop_scale: pixels of the crop per pixel of the picture.
        white: value of white.
    """
    size = restored.shape[0]
    # Structure finer than the picture's pixels is the network's own.
    side = max(1, round(size / max(1.0, crop_scale)))
    structures = []
    for image in (restored, reference):
        gray = image if image.ndim == 2 else cv2.transform(image, np.full((1, 3), 1 / 3))
        gray = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
        structures.append(gray - cv2.GaussianBlur(gray, (0, 0), _FINEST))
    after, before = structures
    products, energies = (
        cv2.GaussianBlur(product, (0, 0), _AROUND) + np.float32(_NOTHING * white**2)
        for product in (after * before, before * before)
    )
    # Resizes the lost share, not the kept one, so that no loss stays exactly zero.
    lost = 1 - np.clip(products / energies, 0, 1)
    return 1 - cv2.resize(lost, (size, size), interpolation=cv2.INTER_LINEAR)
