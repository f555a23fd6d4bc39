"""Edits of EXIF bytes that move no other value.

EXIF data are a TIFF file without pixels: a header, and directories of 12-byte entries whose longer
values lie elsewhere, at offsets from the start. Maker notes hold such offsets as well, in forms
that only their makers know, so values stay where they are.
"""

import dataclasses
import struct

PREFIX = b"Exif\0\0"  # Before the data in JPEG; the functions here neither expect nor return it.

_ORIENTATION, _DESCRIPTION = 0x0112, 0x010E
EXIF, GPS = 0x8769, 0x8825  # Entries of the first directory that refer to others.
# Offset and length of the thumbnail: a JPEG file, or strips of pixels.
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))
_SHORT, _LONG, _ASCII = 3, 4, 2
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An entry of a directory; `value` has 4 bytes, the value itself or its offset."""

    tag: int
    kind: int
    count: int
    value: bytes

    @property
    def length(self) -> int:
        return self.count * _BYTES[self.kind]


def strip(exif: bytes) -> bytes:
    """Removes orientation and thumbnail.

    Args:
        exif: EXIF data.

    Returns:
        EXIF data; empty if there is nothing else.

    Raises:
        ValueError: damaged data.
    """
    data = bytearray(exif)
    order, start = _header(data)
    entries, following = _directory(data, order, start)
    _check(data, order, entries)
    if following:
        _remove_thumbnail(data, order, following)
    kept = [entry for entry in entries if entry.tag != _ORIENTATION]
    if not kept:
        return b""
    # The shorter directory fits where the old one was.
    packed = _packed(order, kept)
    data[start : start + len(packed)] = packed
    return bytes(data)


def describe(exif: bytes | None, text: str) -> bytes:
    """Adds a text to ImageDescription, the field that viewers show; a text in it stays.

    Args:
        exif: EXIF data without a thumbnail, from `strip`; None makes new ones.
        text: the text; nothing changes where the field has it already.

    Returns:
        EXIF data.

    Raises:
        ValueError: damaged data.
    """
    data = bytearray(b"II*\0\x08\0\0\0" + bytes(6) if exif is None else exif)
    order, start = _header(data)
    entries, _ = _directory(data, order, start)
    own = next((_value(data, order, x) for x in entries if x.tag == _DESCRIPTION), b"")
    own = own.rstrip(b" \0")
    if text.encode() in own:
        return bytes(data)
    described = (own + b"; " if own else b"") + text.encode() + b"\0"
    data += bytes(len(data) % 2)
    if len(described) > 4:
        value = struct.pack(order + "I", len(data))
        data += described + bytes(len(described) % 2)
    else:
        value = described.ljust(4, b"\0")
    entries = [entry for entry in entries if entry.tag != _DESCRIPTION]
    entries.append(_Entry(_DESCRIPTION, _ASCII, len(described), value))
    struct.pack_into(order + "I", data, 4, len(data))
    return bytes(data) + _packed(order, sorted(entries, key=lambda entry: entry.tag))


def _header(data: bytearray) -> tuple[str, int]:
    """Returns the byte order for `struct`, and the offset of the first directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None or len(data) < 8:
        raise ValueError("EXIF data have no header")
    return order, struct.unpack_from(order + "I", data, 4)[0]


def _directory(data: bytearray, order: str, start: int) -> tuple[list[_Entry], int]:
    """Returns the entries of a directory, and the offset of the one that follows or 0."""
    try:
        (count,) = struct.unpack_from(order + "H", data, start)
        entries = [
            _Entry(*struct.unpack_from(order + "HHI4s", data, start + 2 + 12 * index))
            for index in range(count)
        ]
    except struct.error as error:
        raise ValueError("a directory of the EXIF data is cut off") from error
    # Some programs end the data without the offset.
    following = data[start + 2 + 12 * count :][:4]
    return entries, struct.unpack(order + "I", following)[0] if len(following) == 4 else 0


def _value(data: bytearray, order: str, entry: _Entry) -> bytes:
    if entry.kind not in _BYTES:
        raise ValueError(f"tag {entry.tag} of the EXIF data has the unknown type {entry.kind}")
    if entry.length <= 4:
        return entry.value[: entry.length]
    (start,) = struct.unpack(order + "I", entry.value)
    if start + entry.length > len(data):
        raise ValueError(f"tag {entry.tag} of the EXIF data lies beyond their end")
    return bytes(data[start : start + entry.length])


def _number(data: bytearray, order: str, entry: _Entry) -> int:
    """Returns the value of an offset or a length."""
    if entry.count != 1 or entry.kind not in (_SHORT, _LONG, 13):
        raise ValueError(f"tag {entry.tag} of the EXIF data is not an offset")
    return int.from_bytes(_value(data, order, entry), "little" if order == "<" else "big")


def _check(data: bytearray, order: str, entries: list[_Entry]) -> None:
    """Raises ValueError unless all values lie inside the data."""
    for entry in entries:
        _value(data, order, entry)
    # One directory of each kind, so that no data take long.
    for entry in {entry.tag: entry for entry in entries if entry.tag in (EXIF, GPS)}.values():
        inner, _ = _directory(data, order, _number(data, order, entry))
        for value in inner:
            _value(data, order, value)


def _remove_thumbnail(data: bytearray, order: str, start: int) -> None:
    """Cuts the thumbnail off, or overwrites it with zeros where other data follow it."""
    try:
        numbers = {
            entry.tag: _number(data, order, entry)
            for entry in _directory(data, order, start)[0]
            if entry.tag in sum(_THUMBNAILS, ())
        }
    except ValueError:
        return  # Nothing refers to it any more.
    for offset, length in _THUMBNAILS:
        begin, end = numbers.get(offset, 0), numbers.get(offset, 0) + numbers.get(length, 0)
        if 8 <= begin < end:
            data[begin:end] = bytes(min(end, len(data)) - min(begin, len(data)))
            if end >= len(data) - 1 and begin > start:
                del data[begin:]


def _packed(order: str, entries: list[_Entry]) -> bytes:
    """Returns a directory that none follows."""
    parts = [struct.pack(order + "H", len(entries))]
    parts += [struct.pack(order + "HHI4s", x.tag, x.kind, x.count, x.value) for x in entries]
    return b"".join(parts) + bytes(4)
