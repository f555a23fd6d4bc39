"""Batches of uint8 pictures as a pure function of (seed, step), built with grain.

Any number of worker processes gives the same stream, and a stream that starts at step k continues
one that started at 0, so a checkpoint needs no state of the pipeline. Examples are dealt to the
hosts in turn, so the global batch of a step does not depend on how many hosts share it either.

With `workers` > 0 the caller's script needs an `if __name__ == "__main__"` guard, because processes
are spawned. They take a second or more to start.
Close iterators when done: `with contextlib.closing(batches(...)) as stream:`.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from codeformer_jax.data.folder import ImageFolder

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

    Where the source's elements carry codes (see `data.codes.WithCodes`), a step also has 'codes':
    int32 [b, n] of the pictures as they are in it, mirrored or not.

    Args:
      source: any number of examples; with `repeat` also fewer than a batch.
      batch_size: examples per step over all hosts; each host gets b = batch_size / hosts.
      seed: 0..2**32-1; fixes order and flips.
      start_step: first step; element k of the stream is step `start_step + k`.
      shuffle: a new order every epoch, otherwise the source's.
      flip: mirror each example left to right with probability 1/2, drawn anew every epoch.
      workers: processes which read; 0 reads in threads of this process.
      host, hosts: index of this host (`jax.process_index()`) and their number.
      repeat: go on for ever; otherwise one epoch whose last incomplete batch is dropped.

    Raises:
      ValueError: an empty source, less than one batch without `repeat`, or a bad argument.
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
    examples = grain.MapDataset.range(len(source)).seed(seed)
    if shuffle:
        examples = examples.shuffle()
    if repeat:
        examples = examples.repeat()
    # Before the hosts' slice: behind it every host would draw the same flips.
    examples = examples.map(_Load(source)).random_map(_Flip(0.5 if flip else 0.0))
    steps = examples[host::hosts].batch(batch_size // hosts, drop_remainder=True, batch_fn=_stack)
    if not repeat:
        # With a remainder the first hosts could otherwise see one batch more than the last.
        steps = steps[: len(source) // batch_size]
    return _iterate(steps[start_step:], workers)


def evaluation_batches(
    source: Source, *, batch_size: int, workers: int = 0, host: int = 0, hosts: int = 1
) -> grain.DatasetIterator:
    """One pass in the source's order: as `batches`, with `'valid': bool [b]` besides.

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


def open_source(data_config: Any, split: str) -> Source:
    """The source which a config's `data` section describes, for split 'train', 'heldout' or 'all'.

    Without `path` these are synthetic faces (`synthetic_length` of them for training,
    `heldout_length` held out, drawn with `seed`). With it an `ImageFolder`, to which go
    `heldout_fraction`, `min_size` and `max_unreadable` where they are set. `cache=True` keeps
    decoded pictures in memory, at most `cache_bytes`.

    Raises:
      ValueError: 'all' of the synthetic faces, whose splits never meet; and as the sources do.
    """
    path = data_config.get("path")
    if path:
        options = ("heldout_fraction", "min_size", "max_unreadable")
        given = {key: data_config.get(key) for key in options}
        source = ImageFolder(
            path,
            data_config.image_size,
            split,
            **{key: value for key, value in given.items() if value is not None},
        )
    else:
        # Here, so that reading a folder does not need the renderer.
        from codeformer_jax.data.synthetic import SyntheticFaces  # noqa: PLC0415

        if split not in ("train", "heldout"):
            raise ValueError(
                f"synthetic faces have the splits 'train' and 'heldout', got '{split}'; to use all "
                "images of a folder set data.path"
            )
        key = "synthetic_length" if split == "train" else "heldout_length"
        source = SyntheticFaces(
            split=split,
            size=data_config.image_size,
            length=data_config[key],
            seed=data_config.get("seed") or 0,
        )
    if data_config.get("cache"):
        limit = data_config.get("cache_bytes")
        source = CachedSource(source) if limit is None else CachedSource(source, limit)
    return source


def open_heldout(config: Any) -> Source:
    """The images that a config evaluates on: folder `eval.path`, or the held-out part of `data`.

    Raises as `open_source` and `ImageFolder` do.
    """
    if config.eval.path:
        return ImageFolder(config.eval.path, config.data.image_size, "all")
    return open_source(config.data, "heldout")


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
        codes = {"codes": found["codes"]} if "codes" in found else {}
        return {
            "image": found["image"],
            "index": np.int32(found.get("index", element)),
            "name": found["name"],
        } | codes


class _LoadValid(_Load):
    def map(self, element: int) -> Element:
        wanted = int(element) % len(self._source)
        found = super().map(wanted)
        valid = int(element) < len(self._source) and int(found["index"]) == wanted
        return found | {"valid": np.bool_(valid)}


class _Flip(grain.transforms.RandomMap):
    def __init__(self, share: float):
        self._share = share

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        flip = rng.random() < self._share
        if "codes" in element:
            element = element | {"codes": element["codes"][int(flip)]}
        return element | {"image": _mirrored(element["image"])} if flip else element


def _mirrored(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    # As items of three bytes: NumPy reverses them 2.5 times as fast as rows of single bytes.
    pixels = np.ascontiguousarray(image).view("V3")
    return np.ascontiguousarray(pixels[:, ::-1]).view(np.uint8)


def _stack(elements: Sequence[Element]) -> Element:
    return {key: np.stack([element[key] for element in elements]) for key in elements[0]}


def _check(source: Source, batch_size: int, workers: int, host: int, hosts: int) -> None:
    if len(source) == 0:
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
