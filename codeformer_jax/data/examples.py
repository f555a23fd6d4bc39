"""Sources of examples: the protocol, mixtures and caches."""

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

Element = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """Random access to examples `{'image': uint8 [h, w, 3], 'name': str}`, all of one size.

    `len(source)` is the number of examples, `source[i]` example i; both must always give the same.
    Worker processes get a pickled copy. An example may also have:
      label: its class, an integer from 0 on.
      index: the index of the example that it really is, where a source replaces a broken one.

    A method `listing()`, or else `repr(source)`, tells the examples from others, line by line: a
    run that resumes refuses data whose lines differ.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Element: ...


def listing_digest(source: Source) -> str:
    """Returns the SHA-256, in hexadecimal, of a source's listing, or of all parts of a mixture.

    No image is read, so other pixels behind the same listing go unnoticed.
    """
    digest = hashlib.sha256()
    for part in getattr(source, "sources", (source,)):
        for line in _listing(part):
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _listing(source: Source) -> Iterable[str]:
    if hasattr(source, "listing"):
        return source.listing()
    if type(source).__repr__ is object.__repr__:  # It holds an address, which no two runs share.
        return (f"{type(source).__qualname__}, {len(source)} examples",)
    return (repr(source),)


class Mixture:
    """Several sources concatenated; `data.pipeline.batches` draws from each by its weight.

    A source with attributes `sources` and `weights` is a mixture. `index` counts through all
    sources. Every one is shuffled and repeated on its own.

    Args:
        sources: the sources, none empty.
        weights: their shares, relative to each other.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        self.sources, self.weights = tuple(sources), tuple(weights)
        self._ends = tuple(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Element:
        number = bisect.bisect_right(self._ends, index)
        if index < 0 or number == len(self.sources):
            raise IndexError(f"index {index} is outside 0..{len(self) - 1}")
        start = self._ends[number] - len(self.sources[number])
        found = self.sources[number][index - start]
        return {**found, "index": start + int(found.get("index", index - start))}

    def __repr__(self) -> str:
        terms = zip(self.weights, self.sources, strict=True)
        return " + ".join(f"{weight:g} * {source!r}" for weight, source in terms)


class Wrapper:
    """A source with the examples of another one, drawn in the same way."""

    def __init__(self, source: Source):
        self._source = source
        self.sources = getattr(source, "sources", (source,))
        self.weights = getattr(source, "weights", None)

    def __len__(self) -> int:
        return len(self._source)


class CachedSource(Wrapper):
    """A source that keeps every example in memory once it has been read.

    Each worker process fills a cache of its own.

    Args:
        source: the examples, all of one size.
        max_bytes: limit for all decoded pictures.

    Raises:
        ValueError: the pictures need more than `max_bytes`.
    """

    def __init__(self, source: Source, max_bytes: int = 4 * 2**30):
        super().__init__(source)
        self._max_bytes = max_bytes
        self._elements: dict[int, Element] = {}
        needed = len(source) * self[0]["image"].nbytes if len(source) else 0
        if needed > max_bytes:
            raise ValueError(
                f"data.cache=True: {len(source)} pictures take {needed} bytes, more than the limit "
                f"of {max_bytes}; set data.cache=False, or raise data.cache_bytes if memory allows"
            )

    def __getitem__(self, index: int) -> Element:
        element = self._elements.get(index)
        if element is None:
            element = self._source[index]
            element["image"].setflags(write=False)  # All callers share the array.
            self._elements[index] = element
        return dict(element)

    def __reduce__(self):
        # Worker processes start with an empty cache: sending it costs more than reading.
        return (CachedSource, (self._source, self._max_bytes))
