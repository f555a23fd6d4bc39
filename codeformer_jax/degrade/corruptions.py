"""Protocol and registry of the corruptions that a recipe may add to its degradation.

A module of your own, named in `config.plugins`, may register more: see docs/extending.md.
A section of its name, such as `config.degradation.RECIPE.vignette = {"strength": (0.1, 0.5)}`,
switches a corruption on.
"""

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
from jaxtyping import Array, Float, Key

from codeformer_jax.degrade.ranges import Settings, read
from codeformer_jax.system.registry import Registry

Place = Literal["before", "after", "last"]

CORRUPTIONS: Registry[type["Corruption"]] = Registry("corruption")


class Corruption:
    """Corruption that a recipe adds by a section of its registered name.

    Arrays have static shapes, since everything runs under `jax.jit`. Ranges and drawn values are
    traced: other numbers do not recompile.

    Attributes:
        settings: {name: (check, default)} for the section; see `degrade.ranges` for checks.
        place: 'before' the degradation, 'after' it, or 'last'. Images are rounded to 8 bits between
            the last two, so a corruption in the last place returns multiples of 1/255. Corruptions
            with the same place are applied in the order of registration.
        stream: number of the random stream below an image's key; None derives it from the name.
    """

    settings: ClassVar[Settings] = {}
    place: ClassVar[Place] = "after"
    stream: ClassVar[int | None] = None

    def read(self, name: str, given: Any) -> Any:
        """Returns the ranges of a config's section, a dict of float32 arrays.

        Args:
            name: registered name, for error messages.
            given: section of the config; settings that it lacks get their defaults.

        Raises:
            ValueError: for an unknown setting or a value out of range.
        """
        return read(name, given, self.settings)

    def draw(self, key: Key[Array, ""], ranges: Any, image_size: int) -> Any:
        """Returns the parameters of one image: an array, or a dict or dataclass of arrays.

        Args:
            key: threefry key of this image and corruption.
            ranges: return value of `read`, possibly traced.
            image_size: side of the image in pixels.
        """
        raise NotImplementedError

    def apply(self, images: Float[Array, "b s s 3"], drawn: Any) -> Float[Array, "b s s 3"]:
        """Returns corrupted images in [0, 1].

        Args:
            images: RGB in [0, 1].
            drawn: return value of `draw`, with a leading axis [b].
        """
        raise NotImplementedError

    def words(self, drawn: Any) -> list[str]:
        """Returns short lines for people; none where the image is left as it was.

        Args:
            drawn: return value of `draw` for one image, in Python numbers and NumPy arrays.
        """
        return []


def read_corruptions(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {name: ranges} of a config's sections.

    Raises:
        ValueError: for an unknown name, or a value out of range.
    """
    return {name: CORRUPTIONS[name]().read(name, section) for name, section in given.items()}


def draw_corruptions(
    key: Key[Array, ""], ranges: Mapping[str, Any], image_size: int
) -> dict[str, Any]:
    """Returns {name: drawn parameters} for one image.

    Args:
        key: key of the image; every corruption has its own stream below it.
        ranges: {name: ranges}, see `read_corruptions`.
        image_size: side of the image in pixels.
    """

    def draw(name: str) -> Any:
        corruption = CORRUPTIONS[name]()
        stream = corruption.stream
        if stream is None:
            stream = 32 + zlib.crc32(name.encode()) % 2**31
        return corruption.draw(jax.random.fold_in(key, stream), ranges[name], image_size)

    return {name: draw(name) for name in ranges}


def in_place(place: Place, drawn: Mapping[str, Any]) -> dict[str, Corruption]:
    """Returns the corruptions of `drawn` that have this place, in the order of registration."""
    chosen = {name: CORRUPTIONS[name]() for name in CORRUPTIONS if name in drawn}
    return {name: corruption for name, corruption in chosen.items() if corruption.place == place}


def apply_corruptions(
    place: Place, images: Float[Array, "b s s 3"], drawn: Mapping[str, Any]
) -> Float[Array, "b s s 3"]:
    """Returns images after the corruptions that have this place.

    Args:
        place: see `Corruption`.
        images: [b, s, s, 3] in [0, 1].
        drawn: {name: drawn parameters} with leading axes [b].
    """
    for name, corruption in in_place(place, drawn).items():
        images = corruption.apply(images, drawn[name])
    return images
