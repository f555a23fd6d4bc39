"""Colours (sRGB in [0, 1]), hair styles and how often each is chosen."""


def _rows(*codes: str) -> tuple:
    return tuple(tuple(byte / 255 for byte in bytes.fromhex(code)) for code in codes)


SKIN = _rows("fbdac6", "f5c8ab", "e8b48f", "d59f76", "bb835c", "966447", "714a36", "55392c")
HAIR_DARK = _rows("15120f", "1d1712", "2b1f18", "3d2a1e")
HAIR_LIGHT = _rows("4a3222", "6b4a31", "843a1f", "94704a", "ad8d62", "cdb384", "e6d6ad")
HAIR_GREY = _rows("6f6b68", "9a9793", "b9b6b1", "d3d0ca")
HAIR_DYED = _rows("c04a7c", "7a4fb0", "3f6fb8", "2f8f86")
IRIS_DARK = _rows("2e1b10", "452a18", "5e3b20")
IRIS_LIGHT = _rows("7a5a2c", "6d7a45", "4f7f6e", "4d7ea8", "7fa3b8")
LIPSTICK = _rows("b8323c", "c9515c", "c96a6a", "a8425f", "7d2638", "d0786a")
EYE_SHADOW = _rows("6b4a3a", "8a5a5e", "5f5570", "4c6470", "9a7048")
FRAMES = _rows("17161a", "3a2418", "6d4220", "8f8f94", "b08d4a", "5a1f28", "24364f")
LIGHTS = _rows("fff4e6", "fffaf4", "ffffff", "f3f8ff")
CLOTHES = _rows(
    "20232b", "2f3f5f", "5b6f95", "9fb4c8", "e8e6e0", "d8c3a5", "b06a4a", "8c2f39", "55324f",
    "2f5d50", "6f8f5f", "c9a23f", "44474d",
)  # fmt: skip
BACKGROUND = _rows(
    "8f979f", "b9bfc4", "d9d4ca", "c2ab8c", "8a6f57", "4a4240", "3a4a5c", "6c8ba6", "a9c4d4",
    "8fa68a", "5c7059", "b58a8a", "e4dcd6",
)  # fmt: skip
BEARDS = {"none": 0.5, "stubble": 0.16, "full": 0.16, "goatee": 0.08, "moustache": 0.1}

# left/right: how steeply the hairline falls on either side of the parting; drop moves it down.
_BASE = dict.fromkeys(("length", "curl", "wave", "drop", "part", "recede"), 0.0)
_BASE |= {"lift": 0.03, "side": 0.014, "left": 0.25, "right": 0.25}
STYLES = {
    "bald": _BASE | {"lift": 0.0, "side": 0.0},
    "buzz": _BASE | {"lift": 0.01, "side": 0.004, "recede": 0.05},
    "crop": _BASE | {"lift": 0.04, "side": 0.014, "recede": 0.03},
    "quiff": _BASE | {"lift": 0.075, "side": 0.012, "part": 0.08, "left": 0.1, "right": 0.3},
    "parted": _BASE | {"lift": 0.05, "side": 0.022, "part": 0.1, "left": 0.25, "right": 0.75},
    "afro": _BASE | {"lift": 0.09, "side": 0.085, "curl": 0.012},
    "curls": _BASE | {"lift": 0.06, "side": 0.05, "length": 0.2, "curl": 0.012, "left": 0.4,
                      "right": 0.4},
    "fringe": _BASE | {"lift": 0.045, "side": 0.035, "length": 0.3, "drop": 0.135, "left": 0.1,
                       "right": 0.1},
    "bob": _BASE | {"lift": 0.045, "side": 0.045, "length": 0.33, "part": 0.06, "left": 0.6,
                    "right": 0.9},
    "long": _BASE | {"lift": 0.04, "side": 0.04, "length": 0.75, "left": 0.75, "right": 0.75},
    "swept": _BASE | {"lift": 0.05, "side": 0.045, "length": 0.75, "part": 0.09, "left": 0.5,
                      "right": 0.85},
    "wavy": _BASE | {"lift": 0.05, "side": 0.055, "length": 0.7, "part": 0.03, "left": 0.8,
                     "right": 0.9, "wave": 0.014},
    "tied": _BASE | {"lift": 0.025, "side": 0.008, "left": 0.35, "right": 0.35},
    "scarf": _BASE | {"lift": 0.03, "side": 0.02, "length": 0.75, "drop": 0.03},
    "beanie": _BASE | {"lift": 0.05, "side": 0.008, "drop": 0.09, "left": 0.05, "right": 0.05},
    "mop": _BASE | {"lift": 0.05, "side": 0.03, "drop": 0.11, "left": 0.1, "right": 0.25,
                    "part": 0.05},
}  # fmt: skip
STYLES_SHORT = {"bald": 0.12, "buzz": 0.18, "crop": 0.22, "quiff": 0.14, "parted": 0.14,
                "afro": 0.05, "mop": 0.09, "bob": 0.03, "beanie": 0.05, "wavy": 0.03}  # fmt: skip
STYLES_LONG = {"long": 0.2, "swept": 0.16, "wavy": 0.16, "bob": 0.12, "fringe": 0.12,
               "tied": 0.1, "curls": 0.06, "scarf": 0.05, "afro": 0.04, "crop": 0.04}  # fmt: skip

# Head coverings: shaped like hair, coloured and lit like cloth.
COVERED = ("scarf", "beanie")
