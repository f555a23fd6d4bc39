"""The parts of a face and the numbers that fix each.

Lengths are fractions of the image side, y points down from the middle between the eyes, colours are
sRGB in [0, 1].
"""

import dataclasses

import numpy as np

from codeformer_jax.data.synthetic.shapes import Number

Colour = tuple[Number, Number, Number]


@dataclasses.dataclass(frozen=True)
class Pose:
    yaw: Number
    pitch: Number
    roll: Number


@dataclasses.dataclass(frozen=True)
class Light:
    direction: Colour
    ambient: Number
    strength: Number
    tint: Colour


@dataclasses.dataclass(frozen=True)
class Skin:
    colour: Colour
    tone: Number
    blush: Number
    shine: Number
    age: Number
    wrinkles: Number
    freckles: Number


@dataclasses.dataclass(frozen=True)
class Head:
    width: Number
    jaw: Number
    chin: Number
    chin_y: Number
    crown_y: Number
    ear: Number
    neck: Number


@dataclasses.dataclass(frozen=True)
class Eyes:
    apart: Number
    half_width: Number
    upper: Number
    lower: Number
    tilt: Number
    iris: Colour
    iris_size: Number
    gaze: tuple[Number, Number]
    crease: Number
    liner: Number
    shadow: Colour
    shadow_alpha: Number


@dataclasses.dataclass(frozen=True)
class Brows:
    colour: Colour
    y: Number
    arch: Number
    tilt: Number
    thickness: Number
    length: Number
    alpha: Number


@dataclasses.dataclass(frozen=True)
class Nose:
    tip_y: Number
    width: Number
    bridge: Number
    height: Number


@dataclasses.dataclass(frozen=True)
class Mouth:
    y: Number
    half_width: Number
    upper: Number
    lower: Number
    smile: Number
    open: Number
    colour: Colour
    alpha: Number


@dataclasses.dataclass(frozen=True)
class Hair:
    style: str
    colour: Colour
    roots: Colour
    lift: Number
    side: Number
    length: Number
    spread: Number
    curl: Number
    wave: Number
    hairline: Number
    part: Number
    left: Number
    right: Number
    recede: Number
    side_opening: Number
    gloss: Number
    cloth: Colour
    strands: np.ndarray


@dataclasses.dataclass(frozen=True)
class Beard:
    kind: str
    colour: Colour
    alpha: Number
    extra: Number


@dataclasses.dataclass(frozen=True)
class Glasses:
    kind: str
    colour: Colour
    rim: Number
    half_width: Number
    half_height: Number
    tint: Number


@dataclasses.dataclass(frozen=True)
class Clothes:
    neckline: str
    colour: Colour
    second: Colour
    slope: Number
    shoulder_y: Number
    depth: Number
    earrings: bool


@dataclasses.dataclass(frozen=True)
class Background:
    kind: str
    first: Colour
    second: Colour
    angle: Number
    phases: np.ndarray


@dataclasses.dataclass(frozen=True)
class Face:
    """Everything that fixes a face. Lengths are fractions of the image side."""

    pose: Pose
    light: Light
    skin: Skin
    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    beard: Beard
    glasses: Glasses
    clothes: Clothes
    background: Background
