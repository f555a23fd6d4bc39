"""Contents of checkpoints, read and compared bit for bit."""

import jax
import numpy as np
import orbax.checkpoint as ocp


def state_at(workdir, step):
    """The whole state as a checkpoint has it: parameters, averages, optimizers, statistics."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(workdir / "checkpoints" / str(step) / "default")


def leaves(tree):
    """Name -> array; the same names for a state and for what is read without its types."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    return dict(zip(names, (np.asarray(leaf) for _, leaf in found), strict=True))


def assert_equal(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []
