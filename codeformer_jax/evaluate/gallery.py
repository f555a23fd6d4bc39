"""Gallery of degradations: one picture with clean images, draws and their parameters."""

import functools
import textwrap
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from codeformer_jax.data.images import SUFFIXES, read_image, resize_image, write_image
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.degrade import RECIPES, Recipe, describe
from codeformer_jax.evaluate.make_testset import degrade_picture
from codeformer_jax.system import storage
from codeformer_jax.system.config_file import load_config
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.registry import import_plugins
from codeformer_jax.system.storage import Path

_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_MARGIN = 8


def write_gallery(
    target: str | Path,
    inputs: Sequence[str] = (),
    *,
    recipes: Sequence[str] = ("large",),
    draws: int = 8,
    seed: int = 0,
    size: int = 512,
    cell: int | None = None,
    force: bool = False,
) -> tuple[int, int]:
    """Writes a picture with a row for each recipe and image: the clean image and its degradations.

    Args:
        target: image file to write.
        inputs: image files, cropped to their centred square; none: a synthetic face.
        recipes: see `find_recipe`.
        draws: number of degradations of each image.
        seed: seed of the draws and of the synthetic face.
        size: side of the degraded images in pixels.
        cell: side in pixels at which each image is shown; default `size`.
        force: replace an existing `target`.

    Returns:
        Height and width of the picture.

    Raises:
        FileExistsError: `target` exists and `force` is False.
        ValueError: an unknown recipe, an unreadable image or a number out of range.
    """
    cell = size if cell is None else cell
    for name, value, least in (("draws", draws, 1), ("size", size, 21), ("cell", cell, 16)):
        if value < least:
            raise ValueError(f"{name} is {value}: expected at least {least}")
    target = storage.to_path(target)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot write '{target}': expected a name ending in {', '.join(SUFFIXES)}"
        )
    if target.exists() and not force:
        raise FileExistsError(
            f"{target}: exists; OUT comes before the images, and --force replaces it"
        )
    found = {name: find_recipe(name) for name in recipes}
    images = _images(inputs, size, seed)
    rows = []
    keys = jax.random.split(make_key(seed), draws)
    for name, recipe in found.items():
        for title, image in images.items():
            pictures, captions = [image], [["clean"]]
            for key in keys:
                degraded, parameters = degrade_picture(jnp.asarray(image), key, recipe)
                pictures.append(np.asarray(degraded))
                captions.append(describe(parameters, len(image)))
            rows.append(_row(f"{name}: {title}" if inputs else name, pictures, captions, cell))
    picture = np.concatenate(rows)
    write_image(target, picture)
    return picture.shape[:2]


def find_recipe(name: str) -> Recipe:
    """Returns a recipe by its name or from a config.

    Args:
        name: one of `degrade.RECIPES`, or 'configs/X.py', with ':ARGUMENT' for a config that takes
            one and '@SECTION' for a section of its `degradation`; default its `eval.recipe`.

    Raises:
        ValueError: an unknown name or section, or a file without `get_config`.
        OSError: the config cannot be read.
    """
    if name in RECIPES:
        return Recipe.named(name)
    path, _, section = name.partition("@")
    if not path.partition(":")[0].endswith(".py"):
        raise ValueError(
            f"no recipe is named {name!r}; expected one of {', '.join(RECIPES)}, or a config such "
            "as configs/codeformer_stage3.py@small"
        )
    config = load_config(path)
    import_plugins(config)
    sections = config.get("degradation") or {}
    section = section or config.eval.recipe
    if section not in sections:
        raise ValueError(f"{path} has no degradation {section!r}; it has {sorted(sections)}")
    return Recipe.from_config(sections[section])


def _images(inputs: Sequence[str], size: int, seed: int) -> dict[str, np.ndarray]:
    if not inputs:
        face = SyntheticFaces("heldout", size, seed=seed)[0]
        return {face["name"]: face["image"]}
    paths = map(storage.to_path, inputs)
    return {path.name: resize_image(read_image(path).pixels, size) for path in paths}


def _row(
    title: str, pictures: Sequence[np.ndarray], captions: Sequence[Sequence[str]], cell: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws pictures side by side under a title, each above its lines."""
    font = ImageFont.load_default(max(9, min(16, cell // 16)))
    heading = ImageFont.load_default(max(11, min(20, cell // 12)))
    line, head = int(font.size * 1.35), int(heading.size * 1.7)
    letters = int(cell / font.getlength("0"))
    wrap = functools.partial(textwrap.wrap, width=letters, subsequent_indent="  ")
    lines = [[part for text in caption for part in wrap(text)] for caption in captions]
    height = head + cell + max(map(len, lines)) * line + 2 * _MARGIN
    sheet = Image.new("RGB", (len(pictures) * (cell + _MARGIN) + _MARGIN, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN // 2), title, _INK, heading)
    for column, (picture, caption) in enumerate(zip(pictures, lines, strict=True)):
        left = _MARGIN + column * (cell + _MARGIN)
        shown = Image.fromarray(picture)
        if shown.width != cell:
            shown = shown.resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(shown, (left, head))
        for number, text in enumerate(caption):
            pen.text((left, head + cell + 3 + number * line), text, _FAINT, font)
    return np.array(sheet)
