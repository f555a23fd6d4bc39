"""Batches of uint8 pictures as a pure function of (seed, step), built with grain.

Any number of worker processes gives the same stream, and a stream that starts at step k continues
one that started at 0, so a checkpoint needs no state of the pipeline. Examples are dealt to the
hosts in turn, so the global batch of a step does not depend on how many hosts share it either.
A mixture of sources deals its examples by weight before that.

With `workers` > 0 the caller's script needs an `if __name__ == "__main__"` guard, because processes
are spawned. They take a second or more to start.
Close iterators when done: `with contextlib.closing(batches(...)) as stream:`.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

Element = dict[str, Any]
_PREFETCHED = 4  # Batches; at 16 pictures of 512 x 512 pixels one is 12 MB.
_MAX_SEED = 2**32 - 1


@runtime_checkable
class Source(Protocol):
    """Random access to `{'image': uint8 [h, w, 3], 'name': str}`, all of one size.

    An `index` in the element says which example it really is, where a source replaces broken ones.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Element: ...


@dataclasses.dataclass(frozen=True)
class Part:
    """`length` examples in a row of a source that is a mixture, drawn with a share by `weight`.

    A source with an attribute `parts`, a sequence of these, is a mixture (`data.sources.Mixture`).
    """

    length: int
    weight: float


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shuffle: bool = True,
    flip: bool = True,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    repeat: bool = True,
) -> grain.DatasetIterator:
    """Training steps of `{'image': uint8 [b, h, w, 3], 'index': int32 [b], 'name': str [b]}`.

    Args:
      source: any number of examples; with `repeat` also fewer than a batch. Of a mixture each part
        is shuffled and repeated on its own, and its share holds in any stretch of the stream (to
        within 1 % of its weight).
      batch_size: examples per step over all hosts; each host gets b = batch_size / hosts.
      seed: 0..2**32-1; fixes order and flips.
      start_step: first step; element k of the stream is step `start_step + k`.
      shuffle: a new order every epoch, otherwise the source's.
      flip: mirror each example left to right with probability 1/2, drawn anew every epoch.
      workers: processes which read; 0 reads in threads of this process.
      host, hosts: index of this host (`jax.process_index()`) and their number.
      repeat: go on for ever; otherwise one epoch whose last incomplete batch is dropped.

    Raises:
      ValueError: an empty source, less than one batch or a mixture without `repeat`, or a bad
        argument.
    """
    _check(source, batch_size, workers, host, hosts)
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(f"seed must be within 0..{_MAX_SEED}, got {seed}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    if not repeat and batch_size > len(source):
        raise ValueError(
            f"batch_size={batch_size} is more than the {len(source)} examples of the source and "
            "repeat is off, so there is not one full batch; lower batch_size or use repeat=True"
        )
    examples = _order(source, seed, shuffle, repeat).map(_Load(source))
    if flip:
        # Before the hosts' slice: behind it every host would draw the same flips.
        examples = examples.random_map(_Flip())
    steps = examples[host::hosts].batch(batch_size // hosts, drop_remainder=True, batch_fn=_stack)
    if not repeat:
        # With a remainder the first hosts could otherwise see one batch more than the last.
        steps = steps[: len(source) // batch_size]
    return _iterate(steps[start_step:], workers)


def evaluation_batches(
    source: Source, *, batch_size: int, workers: int = 0, host: int = 0, hosts: int = 1
) -> grain.DatasetIterator:
    """One pass in the source's order: as `batches`, with `'valid': bool [b]` besides.

    Every stretch of a mixture has the parts by their lengths, whatever their weights.

    Every batch is full and every host sees the same number of them: the last is filled up with
    examples from the start that are not `valid`. Neither is an example which the source replaced by
    another because its file is broken. Mask them out of every mean.

    Raises:
      ValueError: an empty source, or a bad argument.
    """
    _check(source, batch_size, workers, host, hosts)
    padded = -(-len(source) // batch_size) * batch_size
    examples = grain.MapDataset.range(padded).map(_LoadValid(source))
    steps = examples[host::hosts].batch(batch_size // hosts, batch_fn=_stack)
    return _iterate(steps, workers)


class CachedSource:
    """Keeps every element of a source in memory once it has been read.

    For sources that fit; each worker process fills a cache of its own.

    Raises:
      ValueError: when opened, if all elements (as large as the first) need more than `max_bytes`.
    """

    def __init__(self, source: Source, max_bytes: int = 4 * 2**30):
        self._source = source
        self._max_bytes = max_bytes
        self._elements: dict[int, Element] = {}
        if len(source):
            needed = len(source) * self[0]["image"].nbytes
            if needed > max_bytes:
                raise ValueError(
                    f"caching {len(source)} pictures takes {needed} bytes, more than the limit of "
                    f"{max_bytes}; set data.cache=False, or raise data.cache_bytes if memory allows"
                )

    @property
    def parts(self) -> Sequence[Part] | None:
        """Of the source, where it is a mixture."""
        return getattr(self._source, "parts", None)

    @property
    def sources(self) -> Sequence[Source]:
        """The sources of a mixture, or the one."""
        return getattr(self._source, "sources", (self._source,))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        element = self._elements.get(index)
        if element is None:
            element = self._source[index]
            element["image"].setflags(write=False)  # Everyone gets the same array.
            self._elements[index] = element
        return dict(element)

    def __reduce__(self):
        # Worker processes start empty: sending the pictures would cost more than reading them.
        return (CachedSource, (self._source, self._max_bytes))


class _Load(grain.transforms.Map):
    def __init__(self, source: Source):
        self._source = source

    def map(self, element: int) -> Element:
        found = self._source[int(element)]
        return {
            "image": found["image"],
            "index": np.int32(found.get("index", element)),
            "name": found["name"],
        }


class _LoadValid(_Load):
    def __init__(self, source: Source):
        super().__init__(source)
        self._places = _interleaved(getattr(source, "parts", None))

    def map(self, element: int) -> Element:
        wanted = int(element) % len(self._source)
        if self._places is not None:
            wanted = int(self._places[wanted])
        found = super().map(wanted)
        valid = int(element) < len(self._source) and int(found["index"]) == wanted
        return found | {"valid": np.bool_(valid)}


class _Flip(grain.transforms.RandomMap):
    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        if rng.random() < 0.5:
            return element | {"image": _mirrored(element["image"])}
        return element


def _mirrored(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return image[:, ::-1]  # A view: `_stack` moves the pixels, once.


def _stack(elements: Sequence[Element]) -> Element:
    stacked = {
        key: np.stack([element[key] for element in elements])
        for key in elements[0]
        if key != "image"
    }
    return {"image": _stack_images([element["image"] for element in elements])} | stacked


def _stack_images(images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "b h w 3"]:
    batch = np.empty((len(images), *images[0].shape), np.uint8)
    # As items of three bytes: NumPy mirrors them 2.5 times as fast as rows of single bytes.
    pixels = batch.view("V3")
    for place, image in zip(pixels, images, strict=True):
        whole = image if image.strides[-1] == 1 else np.ascontiguousarray(image)
        place[...] = whole.view("V3")
    return batch


def _order(source: Source, seed: int, shuffle: bool, repeat: bool) -> grain.MapDataset:
    """Indices of the source's examples, in the order in which they are read."""
    parts = getattr(source, "parts", None)
    if parts is None:
        indices = grain.MapDataset.range(len(source)).seed(seed)
        indices = indices.shuffle() if shuffle else indices
        return indices.repeat() if repeat else indices
    if not repeat:
        raise ValueError(
            "a mixture of sources draws by weight and has no end; use repeat=True, or one source"
        )
    streams, start = [], 0
    for number, part in enumerate(parts):
        indices = grain.MapDataset.range(start, start + part.length)
        if shuffle:
            # Sources of one length would otherwise come in one order.
            own = np.random.SeedSequence((seed, number)).generate_state(1)[0]
            indices = indices.shuffle(seed=int(own))
        streams.append(indices.repeat())
        start += part.length
    return grain.MapDataset.mix(streams, [part.weight for part in parts]).seed(seed)


def _interleaved(parts: Sequence[Part] | None) -> np.ndarray | None:
    """Places of the examples of a mixture, each part spread evenly; None of a single source."""
    if parts is None:
        return None
    spread = [(np.arange(part.length) + 0.5) / part.length for part in parts]
    return np.argsort(np.concatenate(spread), kind="stable")


def _check(source: Source, batch_size: int, workers: int, host: int, hosts: int) -> None:
    if len(source) == 0 or any(part.length == 0 for part in getattr(source, "parts", None) or ()):
        raise ValueError("the source is empty; give at least one example")
    if workers < 0:
        raise ValueError(f"workers must be 0 (threads) or more, got {workers}")
    if hosts < 1 or not 0 <= host < hosts:
        raise ValueError(f"host must be within 0..hosts-1, got host={host} of hosts={hosts}")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of hosts={hosts}, which share it"
        )


def _iterate(steps: grain.MapDataset, workers: int) -> grain.DatasetIterator:
    """An iterator that reads ahead, in threads or in processes; its elements keep their order."""
    if workers == 0:
        threads = min(os.cpu_count() or 1, _PREFETCHED)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCHED)
        return iter(steps.to_iter_dataset(options))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks absl for its debug flags.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    return iter(steps.to_iter_dataset(options).mp_prefetch(processes))
