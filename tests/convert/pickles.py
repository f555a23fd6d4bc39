"""Pickles of tensors, spelled in opcodes."""

import numpy as np

GRID = np.arange(6, dtype=np.float32).reshape(2, 3)


def tensor_pickle(storage="FloatStorage", count=6, offset=0, size=(2, 3), stride=(3, 1)):
    """Pickle of one tensor over storage '0', in opcodes."""

    def number(n):
        return b"J" + int(n).to_bytes(4, "little", signed=True)

    def sequence(items):
        return b"(" + b"".join(map(number, items)) + b"t"

    persistent = (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + storage.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count)
        + b"tQ"
    )
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + persistent
        + number(offset)
        + sequence(size)
        + sequence(stride)
        + b"\x89}tR."
    )
