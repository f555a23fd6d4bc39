"""Decoder of PNG whose rows are stored as differences and not deflated.

`codeformer-jax prepare` writes such PNG into records that ArrayRecord compresses. An ordinary
decoder spends most of its time on checksums, which ArrayRecord has verified already, and on adding
byte by byte.
"""

import struct

import numpy as np
from jaxtyping import UInt8

_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_RGB = b"\x08\x02\x00\x00\x00"  # 8 bits, RGB, the standard methods, not interlaced.
_IDAT = 33  # Start of the chunk behind the header; its data start 8 bytes later.
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_UP = 2  # The filter: differences to the row above.
_GROUP = 16


def decode_stored_png(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """Returns the pixels of an RGB PNG of one stored chunk with filter 2; None for other data."""
    if not data.startswith(_START) or data[24:29] != _RGB or not data.endswith(_END):
        return None
    width, height = struct.unpack_from(">II", data, 16)
    length, kind = struct.unpack_from(">I4s", data, _IDAT)
    if kind != b"IDAT" or _IDAT + 12 + length + len(_END) != len(data):
        return None
    # Before the blocks are 2 bytes of zlib's header, behind them 4 of its checksum.
    raw = _blocks(memoryview(data)[_IDAT + 10 : _IDAT + 8 + length - 4])
    if raw is None or len(raw) != height * (1 + 3 * width):
        return None
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + 3 * width)
    if not (rows[:, 0] == _UP).all():
        return None
    return _summed(rows[:, 1:]).reshape(height, width, 3)


def _blocks(deflated: memoryview) -> bytes | None:
    """Returns the content of a deflate stream of stored blocks; None for other streams."""
    parts, at, last = [], 0, 0
    while not last and at + 5 <= len(deflated):
        last, length, inverse = struct.unpack_from("<BHH", deflated, at)
        if last > 1 or length ^ inverse != 0xFFFF:
            return None
        parts.append(deflated[at + 5 : at + 5 + length])
        at += 5 + length
    return b"".join(parts) if last and at == len(deflated) else None


def _summed(differences: UInt8[np.ndarray, "h n"]) -> UInt8[np.ndarray, "h n"]:
    """Returns running sums down the rows, modulo 256; NumPy's cumsum takes 20 times as long."""
    height, width = differences.shape
    sums = np.array(differences)
    whole = height - height % _GROUP
    groups = sums[:whole].reshape(-1, _GROUP, width)
    # First inside all groups at once; then each group continues the one above it.
    for row in range(1, _GROUP):
        groups[:, row] += groups[:, row - 1]
    for group in range(1, len(groups)):
        groups[group] += groups[group - 1, -1]
    for row in range(max(1, whole), height):
        sums[row] += sums[row - 1]
    return sums
