"""Sources by one string: what a config's `data.path` and `eval.path` say.

    SOURCE = ONE, or a mixture: WEIGHT * ONE + WEIGHT * ONE ...
    ONE    = [folder:]PATH | tfds:NAME[SPLIT] | array_record:GLOB | synthetic:SIZE
           | synthetic_shapes:SIZE

A plus parts two sources only between spaces and before a weight, so paths may hold plus signs and
spaces; a path that still reads like something else is written with `folder:`.
"""

import bisect
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from codeformer_jax.data import records
from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.pipeline import CachedSource, Element, Part, Source

KINDS = ("folder", "tfds", "array_record", "synthetic", "synthetic_shapes")
DRAWN = KINDS[3:]  # By the program itself.

_KIND = re.compile(r"([A-Za-z_]{2,}):")
_TFDS = re.compile(r"(?P<name>[^\[\]]+)\[(?P<split>.+)\]")
_WEIGHT = re.compile(r"\s*(?P<weight>[^\s*/\\:]+)\s*\*\s*")
_PLUS = re.compile(r"\s+\+\s+(?=[^\s*/\\:]+\s*\*)")
_PLUS_KIND = re.compile(rf"\s\+\s*(?={'|'.join(KINDS)}:)")


class SourceError(ValueError):
    """A source string that cannot be understood; the message marks the place."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """One source of a string.

    Attributes:
      kind: one of `KINDS`.
      where: path, name, pattern or number of pictures.
      split: what stands in brackets after a TFDS name, or None.
      weight: its share in a mixture, before the shares are made to add up to 1.
    """

    kind: str
    where: str
    split: str | None = None
    weight: float = 1.0


class Mixture:
    """Several sources in a row; `data.pipeline.batches` draws from each by its weight.

    `index` counts through all of them. Every source is shuffled and repeated on its own.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        self.sources = tuple(sources)
        self.parts = tuple(map(Part, map(len, self.sources), weights))
        self._ends = tuple(itertools.accumulate(part.length for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Element:
        number = bisect.bisect_right(self._ends, index)
        if index < 0 or number == len(self.sources):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        start = self._ends[number] - self.parts[number].length
        found = self.sources[number][index - start]
        return {**found, "index": start + int(found.get("index", index - start))}

    def __repr__(self) -> str:
        terms = zip(self.parts, self.sources, strict=True)
        return " + ".join(f"{part.weight:g} * {source!r}" for part, source in terms)


def parse_source(text: str) -> tuple[Spec, ...]:
    """The sources that a string names, one or the parts of a mixture.

    Raises:
      SourceError: for a string that breaks the grammar above.
    """
    if not _WEIGHT.match(text):
        second = _PLUS.search(text) or _PLUS_KIND.search(text)
        if second:
            raise _error(text, (0, second.start()), "a part of a mixture needs a weight before it")
        return (_parse_one(text, (0, len(text))),)
    pluses = [match.span() for match in _PLUS.finditer(text)]
    starts = [0, *(end for _, end in pluses)]
    ends = [*(start for start, _ in pluses), len(text)]
    return tuple(_parse_weighted(text, span) for span in zip(starts, ends, strict=True))


def open_source(data_config: Any, split: str) -> Source:
    """The source which a config's `data` section describes, for split 'train', 'heldout' or 'all'.

    Without `path` these are synthetic faces (`synthetic_length` of them for training,
    `heldout_length` held out, drawn with `seed`). With it the sources that it names: folders and
    ArrayRecord files are split by `heldout_fraction`, TFDS datasets have splits of their own;
    `min_size`, `max_unreadable` and `max_megapixels` are handed on where they are set. `cache=True`
    keeps decoded pictures in memory, at most `cache_bytes`.

    Raises:
      SourceError: a `path` that is no source.
      ValueError: 'all' of synthetic faces, whose splits never meet; and as the sources do.
    """
    path = data_config.get("path")
    specs = parse_source(path) if path else (Spec("synthetic", ""),)
    source = _join([_open(spec, data_config, split) for spec in specs], specs)
    if data_config.get("cache"):
        limit = data_config.get("cache_bytes")
        source = CachedSource(source) if limit is None else CachedSource(source, limit)
    return source


def open_heldout(config: Any) -> Source:
    """The images that a config evaluates on: source `eval.path`, or the held-out part of `data`.

    Of a folder and of ArrayRecord files in `eval.path` these are all, of a TFDS dataset the split
    which its string names or else the held-out one, of synthetic faces as many as it says. Weights
    play no part in evaluation.

    Raises as `open_source` does.
    """
    if not config.eval.path:
        return open_source(config.data, "heldout")
    specs = parse_source(config.eval.path)
    whole = {"folder": "all", "array_record": "all"}
    sources = []
    for spec in specs:
        if spec.split:
            sources.append(_open_tfds(spec, config.data, spec.split))
        elif spec.kind in DRAWN:
            sources.append(_open_drawn(spec.kind, int(spec.where), config.data, "heldout"))
        else:
            sources.append(_open(spec, config.data, whole.get(spec.kind, "heldout")))
    return _join(sources, specs)


def _join(sources: list[Source], specs: Sequence[Spec]) -> Source:
    return sources[0] if len(sources) == 1 else Mixture(sources, [spec.weight for spec in specs])


def _open(spec: Spec, data_config: Any, split: str) -> Source:
    size = data_config.image_size
    if spec.kind == "folder":
        names = ("heldout_fraction", "min_size", "max_unreadable", "max_megapixels")
        given = _options(data_config, *names)
        return ImageFolder(spec.where, size, split, **given)
    if spec.kind == "array_record":
        given = _options(data_config, "heldout_fraction", "min_size")
        return records.open_array_record(spec.where, size, split, **given)
    if spec.kind == "tfds":
        chosen = spec.split
        if chosen and split == "heldout":
            chosen = records.heldout_of(spec.where, chosen)
        return _open_tfds(spec, data_config, chosen, split)
    if split == "heldout":
        length = data_config.heldout_length
    else:
        length = int(spec.where or data_config.synthetic_length)
    return _open_drawn(spec.kind, length, data_config, split)


def _open_tfds(spec: Spec, data_config: Any, chosen: str | None, split: str = "all") -> Source:
    given = _options(data_config, "min_size")
    return records.open_tfds(spec.where, data_config.image_size, split, chosen, **given)


def _open_drawn(kind: str, length: int, data_config: Any, split: str) -> Source:
    # Here, so that reading a folder does not need the renderer.
    from codeformer_jax.data.synthetic import SyntheticFaces, SyntheticShapes  # noqa: PLC0415

    if split not in ("train", "heldout"):
        raise ValueError(
            f"synthetic pictures have the splits 'train' and 'heldout', got '{split}'; to use all "
            "images of a folder set data.path"
        )
    drawn = SyntheticShapes if kind == "synthetic_shapes" else SyntheticFaces
    return drawn(
        split=split, size=data_config.image_size, length=length, seed=data_config.get("seed") or 0
    )


def _options(data_config: Any, *names: str) -> dict[str, Any]:
    given = {name: data_config.get(name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


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
    unweighted = _PLUS_KIND.search(text, match.end(), end)
    if unweighted:
        raise _error(text, (unweighted.end(), end), "a part of a mixture needs a weight before it")
    return dataclasses.replace(_parse_one(text, (match.end(), end)), weight=weight)


def _parse_one(text: str, span: tuple[int, int]) -> Spec:
    whole = text[slice(*span)]
    span = (span[0] + len(whole) - len(whole.lstrip()), span[0] + len(whole.rstrip()))
    one = text[slice(*span)]
    match = _KIND.match(one)
    kind, where = (match[1], one[match.end() :]) if match else ("folder", one)
    if kind not in KINDS:
        if not os.path.exists(one):
            kinds = ", ".join(f"{kind}:" for kind in KINDS)
            problem = f"'{kind}:' is no kind of source; expected {kinds} or the path of a folder"
            raise _error(text, span, problem)
        kind, where = "folder", one
    where = os.path.expanduser(where)  # Not a shell's: it stands inside a word.
    if not where.strip():
        raise _error(text, span, f"nothing behind '{kind}:'" if match else "no source is named")
    if kind in DRAWN and not (where.isascii() and where.isdigit() and int(where)):
        what = "faces" if kind == "synthetic" else "pictures"
        raise _error(text, span, f"expected {kind}:SIZE with a number of {what}, from 1 on")
    if kind != "tfds" or os.path.isdir(where):
        return Spec(kind, where)
    split = _TFDS.fullmatch(where)
    if split:
        return Spec(kind, split["name"], split["split"])
    if "[" in where or "]" in where:
        raise _error(text, span, "expected tfds:NAME[SPLIT], such as tfds:faces[train[:90%]]")
    return Spec(kind, where)


def _error(text: str, span: tuple[int, int], problem: str) -> SourceError:
    start, end = span
    mark = " " * start + "^" * max(1, end - start)
    form = "0.7 * tfds:/data/ffhq + 0.3 * folder:/data/my faces"
    return SourceError(f"cannot read this source: {problem}\n  {text}\n  {mark}\nas in: {form}")
