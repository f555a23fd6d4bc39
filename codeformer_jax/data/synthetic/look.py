"""The parts of a face and the numbers that fix each.

Lengths are fractions of the image side, y points down from the middle between the eyes, colours are
sRGB in [0, 1].
"""

import dataclasses

import numpy as np

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Pose:
    yaw: float
    pitch: float
    roll: float


@dataclasses.dataclass(frozen=True)
class Light:
    direction: Colour
    ambient: float
    strength: float
    tint: Colour


@dataclasses.dataclass(frozen=True)
class Skin:
    colour: Colour
    tone: float
    blush: float
    shine: float
    age: float
    wrinkles: float
    freckles: float


@dataclasses.dataclass(frozen=True)
class Head:
    width: float
    jaw: float
    chin: float
    chin_y: float
    crown_y: float
    ear: float
    neck: float


@dataclasses.dataclass(frozen=True)
class Eyes:
    apart: float
    half_width: float
    upper: float
    lower: float
    tilt: float
    iris: Colour
    iris_size: float
    gaze: tuple[float, float]
    crease: float
    liner: float
    shadow: Colour
    shadow_alpha: float


@dataclasses.dataclass(frozen=True)
class Brows:
    colour: Colour
    y: float
    arch: float
    tilt: float
    thickness: float
    length: float
    alpha: float


@dataclasses.dataclass(frozen=True)
class Nose:
    tip_y: float
    width: float
    bridge: float
    height: float


@dataclasses.dataclass(frozen=True)
class Mouth:
    y: float
    half_width: float
    upper: float
    lower: float
    smile: float
    open: float
    colour: Colour
    alpha: float


@dataclasses.dataclass(frozen=True)
class Hair:
    style: str
    colour: Colour
    roots: Colour
    lift: float
    side: float
    length: float
    spread: float
    curl: float
    wave: float
    hairline: float
    part: float
    left: float
    right: float
    recede: float
    side_opening: float
    gloss: float
    cloth: Colour
    strands: np.ndarray


@dataclasses.dataclass(frozen=True)
class Beard:
    kind: str
    colour: Colour
    alpha: float
    extra: float


@dataclasses.dataclass(frozen=True)
class Glasses:
    kind: str
    colour: Colour
    rim: float
    half_width: float
    half_height: float
    tint: float


@dataclasses.dataclass(frozen=True)
class Clothes:
    neckline: str
    colour: Colour
    second: Colour
    slope: float
    shoulder_y: float
    depth: float
    earrings: bool


@dataclasses.dataclass(frozen=True)
class Background:
    kind: str
    first: Colour
    second: Colour
    angle: float
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
