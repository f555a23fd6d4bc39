"""Sharpness of a face in its picture, measured at and beyond the resolution of a network's crop.

The picture is cut at four times the crop's resolution, or its own if that is less, and at the
crop's, half and a quarter of it. Differences of neighbouring cuts are three bands of structure. In
a sharp face each band holds some of the energy of the next coarser one; a blurred face lacks both
finer bands.

Noise is everywhere in a face, and structure is not. The energy where a band is weakest is therefore
taken for noise, whatever its spectrum. Blocks of JPEG look like structure, but they repeat every
eight pixels of the picture.
"""

import itertools

import cv2
import numpy as np
from jaxtyping import Float32

from codeformer_jax.faces.align import box_region, cut, scaled
from codeformer_jax.faces.face import Transform, scale_of, to_size
from codeformer_jax.faces.masks import hull_mask
from codeformer_jax.faces.pixels import Pixels, in_levels

# Sides of the cuts in sides of the network's crop.
_SIDES = (4, 1, 1 / 2, 1 / 4)
# Share of the face, at its weakest, whose energy counts as noise.
_WEAKEST = 0.05
# Typical energy of a sharp face's band as a share of the next coarser one.
_FALLOFF = 0.4
# Face's side in sides of the crop, from which sharpness counts in part and in full.
_LARGER = (1.0, 1.5)
# A face is sharp in part from the first value and in full from the second one, measured by
# benchmarks/sharpness.py: structure as a share of a sharp face's; structure as a share of
# structure and noise in the finest band; strength of blocks, which falls.
_STRUCTURE, _CLEAN, _BLOCKS = (0.125, 0.25), (0.45, 0.75), (1.2, 0.6)
# Squared contrast, as a share of white's square, below which structure does not count.
_NOTHING = 1e-9
# The face in the template: left, top, right and bottom edge. Side of JPEG's blocks.
_FACE, _BLOCK = (112.0, 115.0, 400.0, 459.0), 8


def sharpness(picture: Pixels, transform: Transform, size: int) -> float:
    """Returns how sharp a face is beyond the pixels of a network's crop.

    It hardly depends on brightness, contrast and small shifts.

    Args:
        picture: pixels.
        transform: from the picture to the template's square, `Face.transform`.
        size: side of the network's crop in pixels.

    Returns:
        1 for a face whose structure reaches beyond the crop's pixels and exceeds noise and blocks;
        0 for a blurred, very noisy or blocky one. It falls to 0 from one and a half times the
        crop's size to its size.
    """
    reduction = 1 / scale_of(to_size(transform, size))
    if reduction <= 1:
        return 0.0
    finest, *coarser = (max(1, round(size * min(side, reduction))) for side in _SIDES)
    gray = in_levels(cut(picture, to_size(transform, finest), finest), np.dtype(np.float32))
    if gray.ndim == 3:
        gray = cv2.transform(gray, np.full((1, 3), 1 / 3))
    cuts = [gray, *(cut(gray, scaled(np.eye(2, 3), finest / side), side) for side in coarser)]
    bands = [_energy(*pair, size) for pair in itertools.pairwise(cuts)]
    (fine, noise), (middle, _), (coarse, _) = bands
    natural = coarse * _FALLOFF + _NOTHING
    structure = min(middle / natural, fine / (natural * _FALLOFF))
    clean = fine / (fine + noise + _NOTHING)
    blocks = _blocks(picture[box_region(transform, _FACE, picture.shape)])
    sharp = _ramp(structure, *_STRUCTURE) * _ramp(clean, *_CLEAN) * _ramp(blocks, *_BLOCKS)
    return sharp * _ramp(reduction, *_LARGER)


def _energy(
    fine: Float32[np.ndarray, "n n"], coarse: Float32[np.ndarray, "m m"], size: int
) -> tuple[float, float]:
    """Returns the energies of structure and of noise that a coarser cut does not hold."""
    side = fine.shape[0]
    band = fine - cv2.resize(coarse, fine.shape, interpolation=cv2.INTER_LANCZOS4)
    energies = cv2.GaussianBlur(band * band, (0, 0), max(1.0, side / size))
    energies = energies[hull_mask(side) > 0.5]
    noise = float(np.quantile(energies, _WEAKEST))
    return float(energies.mean()) - noise, noise


def _blocks(pixels: Pixels) -> float:
    """Returns by how much the steps between blocks exceed others, as a share of the mean step."""
    strengths = []
    for axis in (0, 1):
        lines = np.moveaxis(pixels, axis, 0)
        count = (len(lines) - 1) // _BLOCK * _BLOCK
        if count == 0 or lines.size == 0:
            return 0.0
        steps = cv2.absdiff(lines[1 : count + 1], lines[:count]).reshape(count, -1).mean(1)
        phases = steps.reshape(-1, _BLOCK).mean(0)
        strengths.append((phases.max() - np.median(phases)) / max(phases.mean(), _NOTHING))
    return float(min(strengths))


def _ramp(value: float, start: float, stop: float) -> float:
    return min(max((value - start) / (stop - start), 0.0), 1.0)
