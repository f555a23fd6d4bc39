"""Share of fine detail that pasting keeps."""

import cv2
import numpy as np
from jaxtyping import Float32

# Deviations of Gaussians in pixels of the finer of picture and crop: the finest structure is what
# the first one removes, and the second one averages over its neighbourhood.
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
    sigma = _FINEST * max(1.0, crop_scale)
    after, before = (
        image - cv2.GaussianBlur(image, (0, 0), sigma) for image in (restored, reference)
    )
    products = np.stack([after * before, before * before], axis=-1)
    if products.ndim == 4:
        products = products.mean(axis=2)
    around = cv2.GaussianBlur(products, (0, 0), _AROUND * max(1.0, crop_scale))
    around += np.float32(_NOTHING * white**2)
    return np.clip(around[..., 0] / around[..., 1], 0, 1)
