"""Small ICC profiles (version 2.4), byte by byte after the specification ICC.1:2001."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Columns are the primaries' XYZ, adapted to D50.
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
ADOBE_GAMMA = 2.19921875


def rgb_profile(primaries, curve):
    """Profile of an RGB space; `curve` is its gamma, or levels 0..1 of a table."""
    tags = {
        name: _xyz(column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))
    return _profile(b"RGB ", b"XYZ ", tags)


def gray_profile(curve):
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _curve(curve)})


def colourless_cmyk_profile():
    """All inks are gray: lightness falls with their sum."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    lightness = np.round(255 * np.clip(1 - inks @ [0.3, 0.3, 0.3, 1], 0, 1))
    table = np.stack([lightness, np.full(16, 128), np.full(16, 128)], axis=-1)
    identity = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1" + bytes(4) + struct.pack(">BBBx", 4, 3, 2) + b"".join(map(_fixed, identity))
    ramp = bytes(range(256))
    lut += 4 * ramp + table.astype(np.uint8).tobytes() + 3 * ramp
    return _profile(b"CMYK", b"Lab ", {b"A2B0": lut}, kind=b"prtr")


def srgb_curve(length=1024):
    """Linear light of sRGB's levels, as the profiles of cameras and scanners have it."""
    v = np.linspace(0, 1, length)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def from_adobe_rgb(pixels):
    """Levels of sRGB (not rounded) of pixels in Adobe RGB, by the definitions of both."""
    light = (pixels / 255) ** ADOBE_GAMMA @ ADOBE.T @ np.linalg.inv(SRGB).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _profile(space, connection, tags, kind=b"mntr"):
    text = b"test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + text,
        b"wtpt": _xyz(D50),
        **tags,
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s", start + len(data), 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + table + data


def _fixed(value):
    return struct.pack(">i", round(value * 65536))


def _xyz(values):
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _curve(curve):
    if np.ndim(curve) == 0:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256))
    levels = np.round(np.asarray(curve) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(levels)) + levels.tobytes()
