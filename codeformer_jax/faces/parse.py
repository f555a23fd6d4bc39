"""Regions of restored faces by ParseNet, from converted weights."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from codeformer_jax.faces import models
from codeformer_jax.faces.face import TEMPLATE_SIZE
from codeformer_jax.faces.masks import parsing_mask

CLASSES = 19
# Classes outside the face; those of the face are `masks.FACE_CLASSES`. Releases of the same network
# differ in their order, and the published one comes without a list of names.
NOT_FACE = {0: "background", 14: "neck", 16: "hat", 17: "hair", 18: "cloth"}

Crop = UInt8[np.ndarray, "s s 3"] | Float[np.ndarray, "s s 3"]


class Parser:
    """Segments aligned faces.

    Args:
        model: the converted network.

    Raises:
        ValueError: if the network has other classes than the published one.
    """

    def __init__(self, model: models.Model):
        if model.module.classes != CLASSES:
            raise ValueError(
                f"{model.file or 'ParseNet'} has {model.module.classes} classes; expected the "
                f"published {CLASSES}"
            )
        self.model = model

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Parser":
        """Loads the network from a .safetensors file that `codeformer-jax convert` has written.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a model file of ParseNet.
        """
        return cls(models.load(path, "parsenet"))

    def labels(self, crop: Crop) -> UInt8[np.ndarray, "s s"]:
        """Returns each pixel's class, 0 to 18.

        Args:
            crop: aligned face, uint8 0..255 or floats 0..1. The network sees it at 512 px.

        Raises:
            ValueError: if the network's result is not finite.
        """
        size = crop.shape[0]
        pixels = crop.astype(np.float32) / (255 if crop.dtype == np.uint8 else 1)
        if size != TEMPLATE_SIZE:
            interpolation = cv2.INTER_AREA if size > TEMPLATE_SIZE else cv2.INTER_LINEAR
            shape = (TEMPLATE_SIZE, TEMPLATE_SIZE)
            pixels = cv2.resize(pixels, shape, interpolation=interpolation)
        model = self.model
        labels, finite = _parse(model.variables, pixels, module=model.module)
        if not finite:
            raise ValueError(
                "ParseNet's result has infinities or NaN: its weights are damaged, or the crop is "
                "not finite"
            )
        labels = np.asarray(labels)
        if size != TEMPLATE_SIZE:
            labels = cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
        return labels

    def mask(self, crop: Crop) -> Float[np.ndarray, "s s"]:
        """Returns the soft mask of the face in [0, 1], float32; see `masks.parsing_mask`.

        Args:
            crop: as in `labels`.

        Raises:
            ValueError: if the network's result is not finite.
        """
        return parsing_mask(self.labels(crop))


@functools.partial(jax.jit, static_argnames="module")
def _parse(
    variables: Mapping[str, Any], pixels: Float[Array, "s s 3"], *, module: Any
) -> tuple[UInt8[Array, "s s"], Bool[Array, ""]]:
    logits = module.apply(variables, 2 * pixels[None] - 1).logits[0]
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8), jnp.isfinite(logits).all()
