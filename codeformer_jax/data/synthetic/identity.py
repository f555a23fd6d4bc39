"""Looks of a face: every number of it, drawn from its identity and from nothing else.

Lengths are fractions of the image side, y points down from the middle between the eyes, colours are
sRGB in [0, 1].
"""

import types

import numpy as np

from codeformer_jax.data.synthetic import palette
from codeformer_jax.data.synthetic.shapes import Number

Colour = tuple[Number, Number, Number]

# Separates these draws from any other generator that is seeded with a small integer.
_STREAM = 0xFACE


class Look(types.SimpleNamespace):
    """Looks of a face, which holds those of its parts, or of one part."""


class Dice:
    """Random draws of one identity, by `Generator.random`, whose stream NumPy keeps stable."""

    def __init__(self, identity: int):
        self._random = np.random.Generator(np.random.PCG64([_STREAM, identity])).random

    def between(self, low: Number, high: Number) -> float:
        return low + (high - low) * self._random()

    def bell(self, low: Number, high: Number) -> float:
        """Returns a value in [low, high] that prefers the middle."""
        return low + (high - low) * float(self._random(3).mean())

    def chance(self, probability: Number) -> bool:
        return bool(self._random() < probability)

    def pick(self, weights: dict):
        """Returns one key of `weights`, in proportion to its value."""
        ends = np.cumsum(list(weights.values()))
        place = int(np.searchsorted(ends, self._random() * ends[-1], side="right"))
        return list(weights)[min(place, len(weights) - 1)]

    def table(self, entries: int) -> np.ndarray:
        return self._random(entries).astype(np.float32) * 2 - 1

    def mix(self, colours: tuple[Colour, ...], place: Number, jitter: Number) -> Colour:
        """Returns the colour at `place`, 0..1, along a row of colours, moved by up to `jitter`."""
        stops = np.linspace(0, 1, len(colours))
        channels = np.array(colours).T
        base = np.array([np.interp(place, stops, channel) for channel in channels])
        moved = base + jitter * (self._random(3) * 2 - 1)
        return tuple(float(value) for value in np.clip(moved, 0, 1))


def draw_face(identity: int) -> Look:
    """Returns the look of an identity, 0 or more; it does not depend on the image size."""
    dice = Dice(identity)
    feminine = dice.chance(0.5)
    stage = dice.pick({"child": 0.12, "young": 0.45, "middle": 0.27, "old": 0.16})
    pose = Look(yaw=dice.bell(-1.4, 1.4), pitch=dice.bell(-1.0, 1.0), roll=dice.bell(-0.07, 0.07))
    azimuth, height = dice.between(-0.8, 0.8), dice.between(0.25, 0.75)
    light = Look(
        direction=_unit((np.sin(azimuth), -height, 0.85 * np.cos(azimuth))),
        ambient=dice.between(0.36, 0.5),
        strength=dice.between(0.56, 0.7),
        tint=dice.mix(palette.LIGHTS, dice.between(0, 1), 0.01),
    )
    skin = _skin(dice, stage)
    head = _head(dice, stage, feminine)
    hair = _hair(dice, stage, feminine, skin.tone)
    mouth = _mouth(dice, stage, feminine, skin)
    return Look(
        pose=pose,
        light=light,
        skin=skin,
        head=head,
        eyes=_eyes(dice, stage, feminine, skin.tone, mouth.smile),
        brows=_brows(dice, stage, feminine, hair.roots),
        nose=Look(
            tip_y=dice.bell(0.13, 0.16) - (0.015 if stage == "child" else 0),
            width=dice.bell(0.034, 0.05) * (0.9 if feminine else 1.02) + 0.008 * skin.tone,
            bridge=dice.between(0.018, 0.03),
            height=dice.between(0.7, 1.25) * (0.7 if stage == "child" else 1),
        ),
        mouth=mouth,
        hair=hair,
        beard=_beard(dice, stage, feminine, hair.roots),
        glasses=_glasses(dice, stage),
        clothes=_clothes(dice, feminine),
        background=_background(dice),
    )


def _unit(vector: Colour) -> Colour:
    length = float(np.sqrt(sum(value * value for value in vector)))
    return tuple(float(value) / length for value in vector)


def _skin(dice: Dice, stage: str) -> Look:
    tone = dice.between(0, 1)
    age = {"child": 0.0, "young": 0.15, "middle": 0.5, "old": 0.9}[stage]
    return Look(
        colour=dice.mix(palette.SKIN, tone, 0.015),
        tone=tone,
        blush=dice.between(0.3, 1.0),
        shine=dice.between(0.05, 0.16),
        age=age,
        wrinkles=max(0.0, age - 0.3) * dice.between(0.7, 1.3),
        freckles=dice.between(0.5, 1.0) if dice.chance(0.2) and tone < 0.4 else 0.0,
    )


def _head(dice: Dice, stage: str, feminine: bool) -> Look:
    child = stage == "child"
    return Look(
        width=dice.bell(0.235, 0.275) + (0.008 if child else -0.006 if feminine else 0.002),
        jaw=dice.bell(0.78, 0.94) + (-0.03 if feminine else 0.05),
        chin=dice.bell(0.055, 0.095) + (-0.01 if feminine else 0.008),
        chin_y=dice.bell(0.405, 0.46) + (-0.055 if child else -0.008 if feminine else 0.006),
        crown_y=dice.bell(-0.44, -0.39) - (0.02 if child else 0),
        ear=dice.between(0.85, 1.15),
        neck=dice.bell(0.12, 0.145) + (-0.02 if child else -0.012 if feminine else 0.018),
    )


def _mouth(dice: Dice, stage: str, feminine: bool, skin: Look) -> Look:
    smile = dice.pick({"neutral": 0.3, "soft": 0.35, "broad": 0.35})
    amount = {"neutral": dice.between(-0.25, 0.2), "soft": 0.5, "broad": 0.95}[smile]
    teeth = dice.between(0.35, 1.0)
    plump = 0.75 + 0.3 * skin.tone + (0.15 if feminine else -0.05) - 0.25 * skin.age
    lipstick = feminine and stage != "child" and dice.chance(0.55)
    natural = tuple(c * f for c, f in zip(skin.colour, (0.86, 0.6, 0.6), strict=True))
    painted = dice.mix(palette.LIPSTICK, dice.between(0, 1), 0.03)
    return Look(
        y=dice.bell(0.245, 0.268) - (0.022 if stage == "child" else 0),
        half_width=dice.bell(0.078, 0.096) + 0.016 * max(amount, 0) - 0.008 * (stage == "child"),
        upper=dice.between(0.017, 0.024) * plump,
        lower=dice.between(0.024, 0.033) * plump,
        smile=amount,
        open=teeth * 0.03 if smile == "broad" else 0.006 * teeth * (amount < 0.1),
        colour=painted if lipstick else natural,
        alpha=0.9 if lipstick else 0.8,
    )


def _eyes(dice: Dice, stage: str, feminine: bool, tone: Number, smile: Number) -> Look:
    dark = dice.between(0, 1) < 0.25 + tone * 1.2
    iris = palette.IRIS_DARK if dark else palette.IRIS_LIGHT
    makeup = feminine and stage != "child" and dice.chance(0.65)
    return Look(
        apart=dice.bell(0.117, 0.128),
        half_width=dice.bell(0.053, 0.063) * (1.06 if stage == "child" else 1.0),
        upper=dice.between(0.35, 0.52) + 0.04 * feminine - 0.05 * max(smile, 0),
        lower=dice.between(0.2, 0.3) - 0.05 * max(smile, 0),
        tilt=dice.bell(-0.06, 0.16),
        iris=dice.mix(iris, dice.between(0, 1), 0.02),
        iris_size=dice.between(0.41, 0.46) * (1.08 if stage == "child" else 1.0),
        gaze=(dice.bell(-0.2, 0.2), dice.bell(-0.05, 0.08)),
        crease=dice.between(0.15, 0.32) if dice.chance(0.75) else 0.0,
        liner=(0.11 if makeup else 0.06) * dice.between(0.85, 1.2),
        shadow=dice.mix(palette.EYE_SHADOW, dice.between(0, 1), 0.05),
        shadow_alpha=dice.between(0.1, 0.45) if makeup else 0.0,
    )


def _brows(dice: Dice, stage: str, feminine: bool, hair: Colour) -> Look:
    depth = dice.between(0.5, 0.8)
    return Look(
        colour=tuple(min(value, 0.6) * depth + 0.02 for value in hair),
        y=dice.bell(-0.1, -0.072) - 0.006 * feminine,
        arch=dice.between(0.006, 0.026) + 0.006 * feminine,
        tilt=dice.bell(-0.028, 0.01),
        thickness=dice.bell(0.007, 0.015) * (0.85 if feminine else 1.2),
        length=dice.between(0.12, 0.145),
        alpha=dice.between(0.6, 0.95) * (0.65 if stage == "child" else 1.0),
    )


def _hair(dice: Dice, stage: str, feminine: bool, tone: Number) -> Look:
    styles = dict(palette.STYLES_LONG if feminine else palette.STYLES_SHORT)
    if stage in ("child", "young"):
        styles.pop("bald", None)
    style = dice.pick(styles)
    shape = palette.STYLES[style]
    grey = {"old": 0.75, "middle": 0.15}.get(stage, 0.0)
    dark = dice.chance(0.2 + tone * 1.1)
    row = palette.HAIR_DARK if dark else palette.HAIR_LIGHT
    if dice.chance(grey):
        row = palette.HAIR_GREY
    roots = dice.mix(row, dice.between(0, 1), 0.015)
    dye = dice.mix(palette.HAIR_DYED, dice.between(0, 1), 0.02)
    dyed = dice.chance(0.07) and stage == "young"
    side = 1.0 if dice.chance(0.5) else -1.0
    left, right = shape["left"], shape["right"]
    if side > 0:
        left, right = right, left
    return Look(
        style=style,
        colour=dye if dyed else roots,
        roots=roots,
        lift=shape["lift"] * dice.between(0.75, 1.3),
        side=shape["side"] * dice.between(0.75, 1.3),
        length=shape["length"] + dice.between(-0.04, 0.06) if shape["length"] else 0.0,
        spread=dice.between(0.9, 1.2),
        curl=shape["curl"] * dice.between(0.8, 1.2),
        wave=dice.between(0.0, 0.012) + shape["wave"],
        hairline=dice.bell(-0.285, -0.225) + shape["drop"],
        part=side * shape["part"] * dice.between(0.7, 1.3),
        left=left * dice.between(0.85, 1.15),
        right=right * dice.between(0.85, 1.15),
        recede=shape["recede"] * dice.between(0.3, 1.0) * (0.4 + 0.6 * (stage != "young")),
        side_opening=dice.between(-0.02, 0.015),
        gloss=dice.between(0.08, 0.22) * (0.3 if shape["curl"] else 1.0),
        cloth=dice.mix(palette.CLOTHES, dice.between(0, 1), 0.05),
        strands=dice.table(256),
    )


def _beard(dice: Dice, stage: str, feminine: bool, hair: Colour) -> Look:
    kind = dice.pick(palette.BEARDS)
    alpha, extra = dice.between(0.93, 1.0), dice.between(0.0, 0.045)
    if feminine or stage == "child":
        kind = "none"
    depth = 0.85
    if kind == "stubble":
        alpha, extra, depth = 0.35, 0.0, 0.5
    colour = tuple(value * depth + 0.01 for value in hair)
    return Look(kind=kind, colour=colour, alpha=alpha, extra=extra)


def _glasses(dice: Dice, stage: str) -> Look:
    kind = dice.pick({"none": 0.76, "round": 0.08, "square": 0.11, "aviator": 0.05})
    if stage == "old" and kind == "none" and dice.chance(0.3):
        kind = "square"
    return Look(
        kind=kind,
        colour=dice.mix(palette.FRAMES, dice.between(0, 1), 0.02),
        rim=dice.between(0.0035, 0.0085),
        half_width=dice.between(0.082, 0.095),
        half_height=dice.between(0.055, 0.072),
        tint=dice.between(0.0, 0.1) if dice.chance(0.8) else dice.between(0.4, 0.7),
    )


def _clothes(dice: Dice, feminine: bool) -> Look:
    return Look(
        neckline=dice.pick({"crew": 0.4, "vee": 0.2, "collar": 0.25, "turtle": 0.15}),
        colour=dice.mix(palette.CLOTHES, dice.between(0, 1), 0.05),
        second=dice.mix(palette.CLOTHES, dice.between(0, 1), 0.05),
        slope=dice.between(0.2, 0.36),
        shoulder_y=dice.between(0.33, 0.375) + 0.02 * feminine,
        depth=dice.between(0.8, 1.2),
        earrings=feminine and dice.chance(0.35),
    )


def _background(dice: Dice) -> Look:
    first = dice.mix(palette.BACKGROUND, dice.between(0, 1), 0.06)
    lightness = dice.between(-0.22, 0.22)
    other = dice.mix(palette.BACKGROUND, dice.between(0, 1), 0.06)
    second = tuple(
        float(np.clip(0.65 * a + 0.35 * b + lightness, 0.05, 0.95))
        for a, b in zip(first, other, strict=True)
    )
    return Look(
        kind=dice.pick({"plain": 0.4, "bokeh": 0.25, "panels": 0.2, "horizon": 0.15}),
        first=first,
        second=second,
        angle=dice.between(0, 2 * np.pi),
        phases=dice.table(24),
    )
