"""Restores the faces of a photograph with the network that ships with the package.

    python examples/restore_photo.py PHOTO RESULT [--w W] [--model FILE]

`pip install .` in a clone is all that it needs. `--model` takes other weights: a model file or a
training workdir.
"""

import argparse

import numpy as np
from PIL import Image, ImageOps

from codeformer_jax.restore import Restorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", help="picture to read")
    parser.add_argument("result", help="picture to write")
    parser.add_argument("--w", type=float, help="0: quality, 1: fidelity; default the network's")
    parser.add_argument("--model", help="model file or workdir; default the embedded network")
    args = parser.parse_args()

    pixels = np.asarray(ImageOps.exif_transpose(Image.open(args.photo)).convert("RGB"))
    photo = Restorer.load(args.model).restore_photo(pixels, w=args.w)
    Image.fromarray(photo.pixels).save(args.result)
    if not photo.faces:
        print("no face was found")
    for face in photo.faces:
        left, top, right, bottom = np.round(face.face.box).astype(int)
        print(f"face {face.number} at ({left}, {top}) to ({right}, {bottom}): {face.done}")


if __name__ == "__main__":
    main()
