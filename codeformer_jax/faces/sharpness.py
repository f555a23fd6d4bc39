"""Sharpness of a face in its picture: whether a network's crop of few pixels can gain anything.

The picture is cut at four times the crop's resolution, or its own if that is less, and at a half, a
quarter and an eighth of the crop's. Differences of neighbouring cuts are bands. A sharp face holds
about as much energy between a half and a quarter as between a quarter and an eighth, a blurred face
less. A face that is blurred only in finer structure counts as sharp: the error of the network's own
reconstruction is larger than what it could give back.

Noise is everywhere in a face, and structure is not. The energy where a band is weakest is therefore
taken for noise, whatever its spectrum. It is measured in all structure finer than the half, and
compared with the coarsest band, so that a blurred face without noise is clean. Strong blocks of
JPEG look like structure, but they repeat every eight pixels of the picture.
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
_SIDES = (4, 1, 1 / 2, 1 / 4, 1 / 8)
# Share of the face, at its weakest, whose energy counts as noise.
_WEAKEST = 0.05
# Weight of the energy in the crop's finest band, of which a sharp face has less.
_FINE = 4
# Face's side in sides of the crop, from which sharpness counts in part and in full.
_LARGER = (1.0, 1.25)
# A face is sharp in part from the first value and in full from the second one, measured by
# benchmarks/sharpness.py: structure and noise as shares of coarse structure; strength of blocks.
_STRUCTURE, _NOISE, _BLOCKS = (0.25, 0.5), (0.4, 0.2), (2.4, 1.4)
# Squared contrast, as a share of white's square, below which structure does not count.
_NOTHING = 1e-9
# The face in the template: left, top, right and bottom edge. Side of JPEG's blocks.
_FACE, _BLOCK = (112.0, 115.0, 400.0, 459.0), 8


def sharpness(picture: Pixels, transform: Transform, size: int) -> float:
    """Returns how sharp and clean a face is that is larger than a network's crop.

    It hardly depends on brightness, contrast and small shifts.

    Args:
        picture: pixels.
        transform: from the picture to the template's square, `Face.transform`.
        size: side of the network's crop in pixels.

    Returns:
        1 for a face that is sharp at half the crop's resolution and hardly noisy or blocky; 0 for
        one that is clearly blurred there, very noisy or blocky. It falls to 0 from one and a
        quarter times the crop's size to its size.
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
    (_, grain), (fine, finer_noise), (middle, _), (coarse, _) = bands
    structure, noise = _FINE * fine + middle, grain + finer_noise
    coarse += _NOTHING
    blocks = _blocks(picture[box_region(transform, _FACE, picture.shape)])
    sharp = _ramp(structure / coarse, *_STRUCTURE) * _ramp(noise / coarse, *_NOISE)
    return sharp * _ramp(blocks, *_BLOCKS) * _ramp(reduction, *_LARGER)


def _energy(
    fine: Float32[np.ndarray, "n n"], coarse: Float32[np.ndarray, "m m"], size: int
) -> tuple[float, float]:
    """Returns the energies of structure and of noise that a coarser cut does not hold."""
    side = fine.shape[0]
    band = fine - cv2.resize(coarse, fine.shape, interpolation=cv2.INTER_LANCZOS4)
    # Fewer pixels than these have a weakest place by chance.
    window = max(1.0 if side < size else 2.0, side / size)
    energies = cv2.GaussianBlur(band * band, (0, 0), window)
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
