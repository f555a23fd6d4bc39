"""What the measured sharpness of large faces is worth, on generated portraits with known truth.

    python benchmarks/sharpness.py CHECKPOINT PORTRAITS [--count 16] [--w 1]

Faces are found in the 1024 px pictures of the folder PORTRAITS and cut to 512 px; those that are
smaller in the picture are left out. Each is degraded by the project's recipe with fixed values. The
network restores the result, and three rules make pictures of it: nothing is done; the face is
pasted as one that is not sharp; it is pasted by its sharpness. PSNR and SSIM are of the rectangle
around the face, averaged over faces. Prints a table.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from codeformer_jax.degrade import Recipe, degrade
from codeformer_jax.faces.align import cut
from codeformer_jax.faces.detect import load_yunet
from codeformer_jax.faces.face import to_size
from codeformer_jax.faces.masks import hull_mask
from codeformer_jax.faces.paste import Patch, paste
from codeformer_jax.faces.sharpness import sharpness
from codeformer_jax.faces.texture import match_color
from codeformer_jax.metrics.images import psnr, ssim
from codeformer_jax.restore import Restorer

SIDE, BATCH = 512, 4
PLACE = np.eye(2, 3)
# Blur in pixels, factor of the downsampling, noise in levels of 255, quality of JPEG.
DEGRADATIONS = {
    "clean": None,
    "noise 2.5": (0.01, 1, 2.5, 100),
    "noise 7": (0.01, 1, 7, 100),
    "noise 15": (0.01, 1, 15, 100),
    "noise 25": (0.01, 1, 25, 100),
    "JPEG 95": (0.01, 1, 0, 95),
    "JPEG 60": (0.01, 1, 0, 60),
    "JPEG 25": (0.01, 1, 0, 25),
    "blur 1": (1, 1, 0, 100),
    "blur 3": (3, 1, 0, 100),
    "blur 5": (5, 1, 0, 100),
    "blur 7": (7, 1, 0, 100),
    "1.5 times smaller": (0.01, 1.5, 0, 100),
    "4 times smaller": (0.01, 4, 0, 100),
    "10 times smaller": (0.01, 10, 0, 100),
    "all, light": (1, 1.3, 2.5, 90),
    "all, medium": (3, 4, 7, 60),
    "all, strong": (7, 10, 15, 40),
}


def load_faces(folder, count):
    """The faces of 512 px or more, cut to 512 px, uint8 [n, 512, 512, 3]."""
    detector, faces = load_yunet(), []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        found = detector(picture) if picture.shape[:2] == (1024, 1024) else ()
        if found and (face := max(found, key=lambda face: face.size)).crop_scale <= 1:
            faces.append(cut(picture, to_size(face.transform, SIDE), SIDE))
        if len(faces) == count:
            break
    return np.stack(faces)


def degraded(faces, values):
    """Faces after a recipe of fixed values, uint8."""
    if values is None:
        return faces
    names = ("blur_sigma", "downsample", "noise", "jpeg_quality")
    recipe = Recipe.create(
        anisotropic=0, **{name: (value, value) for name, value in zip(names, values, strict=True)}
    )
    keys = jax.random.split(jax.random.key(0), len(faces))
    results = [
        _degrade(faces[i : i + BATCH].astype(np.float32) / 255, keys[i : i + BATCH], recipe)
        for i in range(0, len(faces), BATCH)
    ]
    return np.rint(np.concatenate(results) * 255).astype(np.uint8)


def scores(image, truth):
    """(PSNR, SSIM) of the rectangle around the face; uint8 images."""
    rows, columns = (np.flatnonzero((hull_mask(SIDE) > 0.5).any(axis)) for axis in (1, 0))
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    pair = [jnp.asarray(x[part], jnp.float32)[None] / 255 for x in (image, truth)]
    return float(_psnr(*pair)[0]), float(_ssim(*pair)[0])


_degrade, _psnr, _ssim = jax.jit(degrade), jax.jit(psnr), jax.jit(ssim)


def measure(faces, inputs, restorer, w):
    """Mean sharpness, and mean scores by rule."""
    size = restorer.image_size
    crops = [cut(image, to_size(PLACE, size), size) for image in inputs]
    rows, shares = [], []
    for truth, image, crop, restored in zip(faces, inputs, crops, restorer(crops, w), strict=True):
        mask = hull_mask(size)
        patch = Patch(to_size(PLACE, size), match_color(restored, crop, mask), mask)
        shares.append(sharpness(image, PLACE, size))
        results = [image]
        for share in (0.0, shares[-1]):
            results.append(image.copy())
            paste(results[-1], [dataclasses.replace(patch, sharpness=share)])
        rows.append([scores(result, truth) for result in results])
    return shares, np.array(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="workdir or model file of a restoration network")
    parser.add_argument("portraits", type=Path, help="folder of generated portraits")
    parser.add_argument("--count", type=int, default=16, help="faces")
    parser.add_argument("--w", type=float, default=1.0)
    arguments = parser.parse_args()
    restorer = Restorer.load(arguments.checkpoint, batch_size=BATCH)
    faces = load_faces(arguments.portraits, arguments.count)
    print(f"{len(faces)} faces of {SIDE} px, a network of {restorer.image_size} px")
    print("| degradation | sharpness | nothing | without | with |\n|---|---|---|---|---|")
    for name, values in DEGRADATIONS.items():
        shares, rows = measure(faces, degraded(faces, values), restorer, arguments.w)
        cells = " | ".join(f"{p:.2f} dB, {s:.3f}" for p, s in rows.mean(0))
        low, mean, high = min(shares), np.mean(shares), max(shares)
        print(f"| {name} | {mean:.2f} ({low:.2f} to {high:.2f}) | {cells} |", flush=True)


if __name__ == "__main__":
    main()
