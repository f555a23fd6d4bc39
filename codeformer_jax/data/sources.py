"""Sources by one string: the settings `data.path` and `eval.path`.

    SOURCE = ONE, or a mixture: WEIGHT * ONE + WEIGHT * ONE ...
    ONE    = PATH of a folder, also in a bucket (gs://, s3://) | PREFIX:WHERE
    PREFIX = folder | tfds | array_record | synthetic | synthetic_shapes | a registered one

A plus separates two sources only between spaces and before a weight, so paths may hold plus signs
and spaces. A path that looks like something else is written with `folder:`.

A module named in `config.plugins` registers a prefix of its own in `SOURCES`; `docs/extending.md`
has an example.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from codeformer_jax.data import records
from codeformer_jax.data.examples import CachedSource, Mixture, Source
from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.synthetic import SyntheticFaces, SyntheticShapes
from codeformer_jax.system.registry import Registry

# `open(where, data, split) -> Source`, by the prefix in `data.path` and `eval.path`.
#   where: what follows the prefix; a leading `~` is the home folder.
#   data: the config's `data` section; images must be of `data.image_size`.
#   split: 'train' or 'heldout', the two parts of `data.path`, which must not share an example, or
#     'eval', all that `eval.path` names.
SOURCES: Registry[Callable[[str, Any, str], Source]] = Registry("config.data.path")

_PREFIX = re.compile(r"(?!gs://|s3://)([A-Za-z_]\w+):", re.ASCII)
_TFDS = re.compile(r"(?P<name>[^\[\]]+)\[(?P<split>.+)\]")
_WEIGHT = re.compile(r"\s*(?P<weight>[^\s*/\\:]+)\s*\*\s*")
_PLUS = re.compile(r"\s+\+\s+(?=[^\s*/\\:]+\s*\*)")


class SourceError(ValueError):
    """A source string that cannot be parsed; the message marks the bad part."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """One source of a string.

    Attributes:
        kind: a prefix in `SOURCES`.
        where: path, name, pattern or number of pictures.
        weight: its share in a mixture, relative to the other weights.
    """

    kind: str
    where: str
    weight: float = 1.0


def open_source(data: Any, split: str) -> Source:
    """Opens the source that a config's `data` section describes.

    Without `path` it is synthetic faces: `synthetic_length` of them for training and
    `heldout_length` held out, drawn with `seed`. With `cache=True` decoded pictures stay in memory,
    up to `cache_bytes`.

    Args:
        data: the section.
        split: 'train' or 'heldout'.

    Raises:
        SourceError: `path` cannot be parsed.
        Others: as the source raises them.
    """
    specs = parse_source(data.path) if data.get("path") else (Spec("synthetic", ""),)
    source = _join(specs, data, split)
    if data.get("cache"):
        limit = data.get("cache_bytes")
        source = CachedSource(source) if limit is None else CachedSource(source, limit)
    return source


def open_heldout(config: Any) -> Source:
    """Opens the images that a config evaluates on: `eval.path`, or the held-out part of `data`.

    `eval.path` takes folders and ArrayRecord files whole, a TFDS dataset by the split that the
    string names or else by its held-out one, synthetic faces by their number. Evaluation ignores
    the weights of a mixture.

    Raises:
        SourceError: `eval.path` cannot be parsed.
        Others: as the source raises them.
    """
    if not config.eval.path:
        return open_source(config.data, "heldout")
    return _join(parse_source(config.eval.path), config.data, "eval")


def parse_source(text: str) -> tuple[Spec, ...]:
    """Returns the sources that a string names: one, or the parts of a mixture.

    Raises:
        SourceError: the string breaks the grammar above.
    """
    if not _WEIGHT.match(text):
        second = _PLUS.search(text) or _plus_prefix().search(text)
        if second:
            raise _error(text, (0, second.start()), "a part of a mixture needs a weight before it")
        return (_parse_one(text, (0, len(text))),)
    pluses = [match.span() for match in _PLUS.finditer(text)]
    starts = [0, *(end for _, end in pluses)]
    ends = [*(start for start, _ in pluses), len(text)]
    return tuple(_parse_weighted(text, span) for span in zip(starts, ends, strict=True))


def _join(specs: Sequence[Spec], data: Any, split: str) -> Source:
    sources = [SOURCES[spec.kind](spec.where, data, split) for spec in specs]
    return sources[0] if len(sources) == 1 else Mixture(sources, [spec.weight for spec in specs])


@SOURCES.register("folder")
def _open_folder(where: str, data: Any, split: str) -> Source:
    names = ("heldout_fraction", "min_size", "max_unreadable", "max_megapixels")
    return ImageFolder(where, data.image_size, _part(split), **_options(data, *names))


@SOURCES.register("tfds")
def _open_tfds(where: str, data: Any, split: str) -> Source:
    named = None
    if not os.path.isdir(where) and ("[" in where or "]" in where):
        match = _TFDS.fullmatch(where)
        if not match:
            raise SourceError(
                f"tfds:{where} cannot be parsed; expected tfds:NAME[SPLIT], such as "
                "tfds:faces[train[:90%]]"
            )
        where, named = match["name"], match["split"]
    return records.open_tfds(where, data.image_size, split, named, **_options(data, "min_size"))


@SOURCES.register("array_record")
def _open_array_record(where: str, data: Any, split: str) -> Source:
    options = _options(data, "heldout_fraction", "min_size")
    return records.open_array_record(where, data.image_size, _part(split), **options)


@SOURCES.register("synthetic")
def _open_faces(where: str, data: Any, split: str) -> Source:
    return _synthetic(SyntheticFaces, f"synthetic:{where}", data, split)


@SOURCES.register("synthetic_shapes")
def _open_shapes(where: str, data: Any, split: str) -> Source:
    return _synthetic(SyntheticShapes, f"synthetic_shapes:{where}", data, split)


def _synthetic(kind: Callable[..., Source], text: str, data: Any, split: str) -> Source:
    number = text.partition(":")[2]
    if number and not (number.isascii() and number.isdigit() and int(number)):
        raise SourceError(f"{text} needs a number of pictures, from 1 on, such as synthetic:1000")
    length = data.heldout_length if split == "heldout" else int(number or data.synthetic_length)
    part = "train" if split == "train" else "heldout"
    return kind(split=part, size=data.image_size, length=length, seed=data.get("seed") or 0)


def _part(split: str) -> str:
    return "all" if split == "eval" else split


def _options(data: Any, *names: str) -> dict[str, Any]:
    given = {name: data.get(name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _plus_prefix() -> re.Pattern[str]:
    return re.compile(rf"\s\+\s*(?=(?:{'|'.join(map(re.escape, SOURCES))}):)")


def _parse_weighted(text: str, span: tuple[int, int]) -> Spec:
    start, end = span
    match = _WEIGHT.match(text, start, end)
    try:
        weight = float(match["weight"])
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        problem = f"'{match['weight']}' is no weight; expected a number above 0 before the '*'"
        raise _error(text, match.span("weight"), problem)
    unweighted = _plus_prefix().search(text, match.end(), end)
    if unweighted:
        raise _error(text, (unweighted.end(), end), "a part of a mixture needs a weight before it")
    return dataclasses.replace(_parse_one(text, (match.end(), end)), weight=weight)


def _parse_one(text: str, span: tuple[int, int]) -> Spec:
    whole = text[slice(*span)]
    span = (span[0] + len(whole) - len(whole.lstrip()), span[0] + len(whole.rstrip()))
    one = text[slice(*span)]
    match = _PREFIX.match(one)
    kind, where = (match[1], one[match.end() :]) if match else ("folder", one)
    if kind not in SOURCES:
        if not os.path.exists(one):
            known = ", ".join(f"{name}:" for name in SOURCES)
            problem = (
                f"'{kind}:' is no kind of source; expected {known}, the path of a folder, or a "
                "prefix that a module in config.plugins registers"
            )
            raise _error(text, span, problem)
        kind, where = "folder", one
    if not where.strip():
        raise _error(text, span, f"nothing behind '{kind}:'" if match else "no source is named")
    return Spec(kind, os.path.expanduser(where))


def _error(text: str, span: tuple[int, int], problem: str) -> SourceError:
    start, end = span
    mark = " " * start + "^" * max(1, end - start)
    form = "0.7 * tfds:/data/ffhq + 0.3 * folder:/data/my faces"
    return SourceError(f"cannot read this source: {problem}\n  {text}\n  {mark}\nas in: {form}")
