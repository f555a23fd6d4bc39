"""Pictures drawn by the program itself, so that training needs no data set: faces, and shapes.

`render_face` draws one identity at any size, `SyntheticFaces` is a random-access source of them.
`draw_group` draws a group of three to six held-out identities, with the places of their faces.
`SyntheticShapes` is one of ten classes of simple shapes with their labels.
"""

from codeformer_jax.data.synthetic.emblems import SHAPE_CLASSES, SyntheticShapes, draw_shape
from codeformer_jax.data.synthetic.group import GroupScene, draw_group
from codeformer_jax.data.synthetic.render import render_face
from codeformer_jax.data.synthetic.source import PICTURES_PER_SEED, SyntheticFaces

__all__ = [
    "PICTURES_PER_SEED",
    "SHAPE_CLASSES",
    "GroupScene",
    "SyntheticFaces",
    "SyntheticShapes",
    "draw_group",
    "draw_shape",
    "render_face",
]
