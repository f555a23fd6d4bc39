"""A random-access source of synthetic faces, in the form that grain reads."""

import dataclasses
import operator
from typing import SupportsIndex

from codeformer_jax.data.synthetic.render import check_size, is_whole, render_face

FACES_PER_SEED = 2**20

# Even identities train, odd ones are held out, so that the splits never share a face.
_PARITY = {"train": 0, "heldout": 1}


@dataclasses.dataclass(frozen=True)
class SyntheticFaces:
    """Faces of one split, drawn when they are read.

    `source[i]` is {'image': uint8 [size, size, 3] sRGB, 'name': 'synthetic/train/00000012'};
    a name stands for one face, whatever the size.

    Attributes:
        split: 'train' or 'heldout'; no face is in both, at any seed.
        size: side in pixels, at least 16.
        length: number of faces; None is FACES_PER_SEED, the maximum.
        seed: selects FACES_PER_SEED faces of the split; different seeds share none.

    Raises:
        ValueError: a field is out of range.
    """

    split: str
    size: int
    length: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.split not in _PARITY:
            raise ValueError(f"split is {self.split!r}; choose one of {', '.join(_PARITY)}")
        check_size(self.size)
        if self.length is not None and not (
            is_whole(self.length) and 0 <= self.length <= FACES_PER_SEED
        ):
            raise ValueError(
                f"length is {self.length!r}; give an integer from 0 to {FACES_PER_SEED}, "
                "or None for all of them"
            )
        if not is_whole(self.seed) or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; give an integer of 0 or more")

    def __len__(self) -> int:
        return FACES_PER_SEED if self.length is None else int(self.length)

    def identity(self, index: SupportsIndex) -> int:
        """Returns the identity, for `render_face`, of the face at an index."""
        place = operator.index(index)
        if not 0 <= place < len(self):
            holds = f"has faces 0 to {len(self) - 1}" if len(self) else "is empty"
            raise IndexError(f"index is {place}; this source {holds}")
        return 2 * (int(self.seed) * FACES_PER_SEED + place) + _PARITY[self.split]

    def __getitem__(self, index: SupportsIndex) -> dict:
        identity = self.identity(index)
        name = f"synthetic/{self.split}/{identity // 2:08d}"
        return {"image": render_face(identity, self.size), "name": name}
