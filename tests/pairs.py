"""Clean pictures and the test set made of them."""

import numpy as np

from codeformer_jax.data.images import resize_image, write_image
from codeformer_jax.evaluate.make_testset import make_testset

# File in the folder of clean pictures -> name in the set: NFC, always PNG.
NAMES = {
    "a b.png": "a b.png",
    "sub/u\u0308.jpg": "sub/\u00fc.png",
    "sub/deep/a b.webp": "sub/deep/a b.png",
    "z.bmp": "z.png",
}
SIZE = 32


def draw_picture(path, seed, height=40, width=36):
    """Writes a smooth picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
    write_image(path, resize_image(coarse, (height, width)))


def make(inputs, output, **options):
    """`make_testset` for 32 px."""
    inputs = inputs if isinstance(inputs, list) else [inputs]
    return make_testset(inputs, output, **{"size": SIZE, "seed": 3, **options})


def tree(folder):
    """{relative name: bytes} of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
