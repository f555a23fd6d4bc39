"""Synthetic faces: drawn by the program itself, so that training needs no data set.

`render_face` draws one identity at any size, `SyntheticFaces` is a random-access source of them.
"""

from codeformer_jax.data.synthetic.render import render_face
from codeformer_jax.data.synthetic.source import FACES_PER_SEED, SyntheticFaces

__all__ = ["FACES_PER_SEED", "SyntheticFaces", "render_face"]
