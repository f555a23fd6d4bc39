"""Views of a picture: mirrored, turned, zoomed and shifted at random."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from codeformer_jax.data.images import resize_image

# Sources are opened at this multiple of the views' side, so that a resampled view stays sharp.
OVERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class View:
    """Geometry of one view of a picture.

    Attributes:
        mirrored: whether it is mirrored left to right, as the last step.
        angle: turn about the centre, in degrees, counterclockwise.
        zoom: magnification.
        shift: (x, y) of the view's centre from the picture's, as shares of the side.
    """

    mirrored: bool = False
    angle: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Ranges of random views; all are drawn uniformly.

    Attributes:
        flip: mirror with probability 1/2.
        turn: largest turn in degrees, 0..180.
        zoom: largest change of scale, 0..0.5; the magnification is within 1 - zoom..1 + zoom.
        shift: largest shift along each axis as a share of the side, 0..0.5.

    Raises:
        ValueError: a range outside these bounds.
    """

    flip: bool = True
    turn: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for name, largest in (("turn", 180), ("zoom", 0.5), ("shift", 0.5)):
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(
                    f"data.{name} must be within 0..{largest}, got {getattr(self, name)}"
                )

    @classmethod
    def from_config(cls, data: Any) -> "Jitter":
        """Returns the jitter of a config's `data` section; values that it lacks are 0."""
        ranges = {name: float(data.get(name, 0.0)) for name in ("turn", "zoom", "shift")}
        return cls(bool(data.flip), **ranges)

    @property
    def resamples(self) -> bool:
        """Whether views are more than mirrored."""
        return bool(self.turn or self.zoom or self.shift)

    def draw(self, generator: np.random.Generator) -> View:
        """Draws a view."""
        mirrored = bool(self.flip and generator.random() < 0.5)
        if not self.resamples:
            return View(mirrored)
        angle, zoom, x, y = generator.uniform(-1, 1, 4)
        return View(
            mirrored,
            float(angle * self.turn),
            float(1 + zoom * self.zoom),
            (float(x * self.shift), float(y * self.shift)),
        )


def oversampled(data: Any) -> Any:
    """Returns a config's `data` section for opening the source of its random views."""
    if not Jitter.from_config(data).resamples:
        return data
    larger = data.copy_and_resolve_references().unlock()
    larger.image_size = data.image_size * OVERSAMPLING
    if data.get("min_size") is None:
        larger.min_size = data.image_size // 2  # As without views.
    return larger


def resample_view(picture: UInt8[np.ndarray, "t t 3"], view: View) -> UInt8[np.ndarray, "s s 3"]:
    """Returns a resampled view of a square picture, not yet mirrored.

    Beyond the edges the picture is reflected.

    Args:
        picture: the picture, of side t.
        view: its geometry.

    Returns:
        A picture of side s = t / `OVERSAMPLING`.
    """
    side = picture.shape[0]
    cos, sin = (f(math.radians(view.angle)) / view.zoom for f in (math.cos, math.sin))
    x, y = (side * (0.5 + share) for share in view.shift)
    half = side / 2
    # How far the corners of the view lie outside.
    reach = half * (abs(cos) + abs(sin))
    beyond = max(reach - min(x, y), reach + max(x, y) - side, 0)
    pad = math.ceil(beyond) + 2  # The filter reaches 2 px further.
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    place = (
        *(cos, -sin, x + pad - half * (cos - sin)),
        *(sin, cos, y + pad - half * (sin + cos)),
    )
    seen = Image.fromarray(padded).transform(
        (side, side), Image.Transform.AFFINE, place, Image.Resampling.BICUBIC
    )
    return resize_image(np.asarray(seen), side // OVERSAMPLING)
