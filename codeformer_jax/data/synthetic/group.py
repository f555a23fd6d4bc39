"""Group pictures: three to six drawn people of several sizes and tilts before one background."""

import dataclasses
import operator
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float, UInt8

from codeformer_jax.data.synthetic import scene
from codeformer_jax.data.synthetic.identity import Look, draw_face
from codeformer_jax.data.synthetic.render import paint_person
from codeformer_jax.data.synthetic.shapes import Canvas

SMALLEST_SIDE = 200

# Separates these draws from those of a face.
_STREAM = 0x6209
_NECK = np.array([0.0, 0.4])  # Where the head turns, in its frame.


@dataclasses.dataclass(frozen=True, eq=False)
class GroupScene:
    """A group picture.

    Attributes:
        image: sRGB.
        points: of each face, from left to right: eyes, tip of the nose and corners of the mouth, in
            pixels; (0, 0) is the centre of the top-left pixel.
    """

    image: UInt8[np.ndarray, "h w 3"]
    points: Float[np.ndarray, "n 5 2"]


@dataclasses.dataclass(frozen=True)
class _Person:
    """A look at a place.

    Attributes:
        look: the look.
        unit: side in pixels of the portrait that would show the head at this size.
        eyes: place between the eyes in pixels.
        roll, lean: angles of head and body.
    """

    look: Look
    unit: float
    eyes: np.ndarray
    roll: float
    lean: float


def draw_group(
    number: SupportsIndex, height: SupportsIndex = 800, width: SupportsIndex = 1280
) -> GroupScene:
    """Draws a group of people; every call returns the same bytes.

    The people are held-out identities: no picture of `SyntheticFaces('train', ...)` shows them.

    Args:
        number: 0 or more; it fixes people and background.
        height, width: sides in pixels, at least 200.

    Returns:
        The picture and the places of its faces.

    Raises:
        ValueError: a negative number, or a side that is too small.
    """
    number, height, width = (operator.index(value) for value in (number, height, width))
    if number < 0:
        raise ValueError(f"number is {number}; give an integer of 0 or more")
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"height and width are {height} and {width}; give at least {SMALLEST_SIDE} px"
        )
    people = _arrange(number, height, width)
    planes = np.empty((3, height, width), np.float32)
    look = people[0].look
    middle = (0.5, 0.5 * height / width)
    scene.paint_background(Canvas.make(planes, middle), look.background, look.light)
    for person in sorted(people, key=lambda person: person.unit):
        neck = person.eyes + _turn(person.roll) @ _NECK * person.unit
        body = neck - _turn(person.lean) @ _NECK * person.unit
        paint_person(
            Canvas.make(planes, tuple(body / person.unit), person.lean, person.unit),
            Canvas.make(planes, tuple(person.eyes / person.unit), person.roll, person.unit),
            person.look,
        )
    image = Canvas.make(planes, (0.0, 0.0)).picture()
    return GroupScene(image, np.stack([_points(person) for person in people]))


def _arrange(number: int, height: int, width: int) -> list[_Person]:
    """Returns the people from left to right; every other one stands behind the others."""
    random = np.random.Generator(np.random.PCG64([_STREAM, number])).random

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(random())

    count = 3 + int(4 * random())
    behind = random() < 0.5
    people = []
    for i in range(count):
        look = draw_face(2 * int(random() * 2**20) + 1)
        unit = min(between(1.35, 1.55) * width / count, between(0.48, 0.6) * height)
        level = between(0.5, 0.56)
        if (i % 2 == 0) == behind:
            unit *= between(0.55, 0.75)
            level = between(0.24, 0.34)
        # The hair stays inside the picture.
        eyes = (
            (i + 0.5 + between(-0.08, 0.08)) * width / count,
            max(level * height, 0.57 * unit),
        )
        lean = between(-0.08, 0.08)
        people.append(_Person(look, unit, np.array(eyes), lean + between(-0.2, 0.2), lean))
        # One light for all.
        look.light = people[0].look.light
    return people


def _points(person: _Person) -> Float[np.ndarray, "5 2"]:
    look, mouth = person.look, person.look.mouth
    yaw = look.pose.yaw
    corner = mouth.y + 0.004 * look.pose.pitch - 0.012 * mouth.smile
    points = np.array(
        [
            (-look.eyes.apart, 0.0),
            (look.eyes.apart, 0.0),
            (0.024 * yaw, look.nose.tip_y),
            (0.012 * yaw - mouth.half_width, corner),
            (0.012 * yaw + mouth.half_width, corner),
        ]
    )
    return points @ _turn(person.roll).T * person.unit + person.eyes - 0.5


def _turn(angle: float) -> Float[np.ndarray, "2 2"]:
    """Returns the matrix from a frame at an angle to the picture."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([(cos, -sin), (sin, cos)])
