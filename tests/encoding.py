"""Helpers of the tests of `codeformer-jax encode`: sources, and the call with short batches."""

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.priors import encode


def faces(count):
    return SyntheticFaces("train", 32, count)


def run_encode(source, target, teacher, **options):
    options = {"batch_size": 4, "mesh": "data:1", "described": "faces", **options}
    return encode.encode_source(source, target, *teacher, **options)


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


class Breaking:
    """A source that fails at one example."""

    def __init__(self, source, at=None):
        self.source, self.at = source, at

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        if index == self.at:
            raise ValueError("broken")
        return self.source[index]
