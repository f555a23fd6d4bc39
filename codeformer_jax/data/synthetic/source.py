"""Random-access sources of pictures that are drawn when they are read."""

import dataclasses
import operator
from typing import SupportsIndex

from codeformer_jax.data.synthetic.render import check_size, render_face

PICTURES_PER_SEED = 2**20

# Even identities train, odd ones are held out, so that the splits never share a picture.
_PARITY = {"train": 0, "heldout": 1}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Numbered pictures of one split; a subclass draws them.

    Attributes:
        split: 'train' or 'heldout'; no picture is in both, at any seed.
        size: side in pixels, at least 16.
        length: number of pictures, at most PICTURES_PER_SEED.
        seed: selects PICTURES_PER_SEED pictures of the split; different seeds share none.

    Raises:
        ValueError: a field is out of range.
    """

    split: str
    size: int
    length: int = PICTURES_PER_SEED
    seed: int = 0

    def __post_init__(self):
        if self.split not in _PARITY:
            raise ValueError(f"split is {self.split!r}; choose one of {', '.join(_PARITY)}")
        check_size(self.size)
        if not 0 <= self.length <= PICTURES_PER_SEED:
            raise ValueError(
                f"length is {self.length}; give an integer from 0 to {PICTURES_PER_SEED}"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give an integer of 0 or more")

    def __len__(self) -> int:
        return self.length

    def identity(self, index: SupportsIndex) -> int:
        """Returns the number of the picture at an index, which no other split or seed has."""
        place = operator.index(index)
        if not 0 <= place < len(self):
            raise IndexError(f"index is {place}; this source has {len(self)} pictures, from 0 on")
        return 2 * (self.seed * PICTURES_PER_SEED + place) + _PARITY[self.split]


class SyntheticFaces(Drawn):
    """Synthetic faces.

    `source[i]` is {'image': uint8 [size, size, 3] sRGB, 'name': 'synthetic/train/00000012'};
    a name stands for one face, whatever the size.
    """

    def __getitem__(self, index: SupportsIndex) -> dict:
        identity = self.identity(index)
        name = f"synthetic/{self.split}/{identity // 2:08d}"
        return {"image": render_face(identity, self.size), "name": name}
