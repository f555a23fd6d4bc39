"""Batches of uint8 pictures as a pure function of (seed, step), built with grain.

The stream is the same for any number of worker processes, and a stream that starts at step k
continues one that started at 0, so a checkpoint needs no state of the pipeline. Each host reads
consecutive rows of the global batch, so the batch and its order do not depend on the number of
hosts. A mixture of sources is drawn by weight before the hosts share the batch.

With `workers` > 0 the caller's script needs an `if __name__ == "__main__"` guard, because processes
are spawned. They take a second or more to start. Each needs shared memory for eight batches, or for
four where there is less.
Close iterators when done: `with contextlib.closing(batches(...)) as stream:`.
"""

import sys
from collections.abc import Sequence

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from codeformer_jax.data.examples import Element, Source
from codeformer_jax.data.views import OVERSAMPLING, Jitter, View, resample_view
from codeformer_jax.system import shared_arrays
from codeformer_jax.system.workers import end_with_parent, keep_freed_memory, usable_cores

_PREFETCHED = 4  # Batches; one of 16 pictures of 512 x 512 pixels takes 12 MB.
_MAX_SEED = 2**32 - 1
# Batches of a worker in shared memory; with the smaller number it reads less far ahead.
_SLOTS, _FEWEST_SLOTS = 8, 4
_MIRRORED = Jitter()


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    jitter: Jitter = _MIRRORED,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> grain.DatasetIterator:
    """Returns endless batches `{'image': uint8 [b, h, w, 3], 'index': int32 [b], 'name': str [b]}`.

    Every epoch has a new order.

    If the source's examples have 'codes' of both orientations, int32 [2, n], a batch has int32
    [b, n] of its pictures as they are in it, mirrored or not. If they have a 'label', a batch has
    int32 [b].

    Args:
        source: any number of examples, also fewer than a batch. Each part of a mixture is shuffled
            and repeated on its own, and any window of the stream has its share (to within 1 % of
            its weight).
        batch_size: examples per step over all hosts; each host gets b = batch_size / hosts.
        seed: 0..2**32-1; fixes order and views.
        start_step: first step; element k of the stream is step `start_step + k`.
        jitter: ranges of the random views, drawn again every epoch; the default only mirrors, with
            probability 1/2. A resampled view has the side of the source's picture divided by
            `views.OVERSAMPLING`.
        workers: processes that read; 0 reads in threads of this process.
        host, hosts: index of this host (`jax.process_index()`) and their number.

    Raises:
        ValueError: an empty source, or an argument out of range.
        SharedMemoryFull: too little shared memory for the workers.
    """
    _check(source, batch_size, workers, host, hosts)
    check_seed(seed)
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    if jitter.resamples and "codes" in source[0]:
        raise ValueError(
            "data.codes are those of the pictures as they are; set data.turn, data.zoom and "
            "data.shift to 0, or leave data.codes out"
        )
    # Views are drawn before the hosts take their rows: afterwards all hosts would draw the same.
    chosen = _order(source, seed).random_map(lambda index, rng: (index, jitter.draw(rng)))
    rows = _rows(chosen, batch_size, host, hosts)
    steps = rows.map(_Read(source, resample=jitter.resamples, share=workers > 0))
    reduction = OVERSAMPLING**2 if jitter.resamples else 1
    return _iterate(steps[start_step:], workers, source, batch_size // hosts, reduction)


def evaluation_batches(
    source: Source, *, batch_size: int, workers: int = 0, host: int = 0, hosts: int = 1
) -> grain.DatasetIterator:
    """Returns one pass in order: batches like those of `batches`, with 'valid': bool [b].

    Every batch is full and every host sees the same number of them: the last one is padded with
    examples from the start that are not `valid`. An example that replaces a broken one is not valid
    either. Mask them out of every mean. A mixture is interleaved by the lengths of its parts,
    whatever their weights.

    Args:
        source: at least one example.
        batch_size: examples over all hosts; each host gets b = batch_size / hosts.
        workers: processes that read; 0 reads in threads of this process.
        host, hosts: index of this host and their number.

    Raises:
        ValueError: an empty source, or an argument out of range.
        SharedMemoryFull: too little shared memory for the workers.
    """
    _check(source, batch_size, workers, host, hosts)
    padded = -(-len(source) // batch_size) * batch_size
    rows = _rows(grain.MapDataset.range(padded), batch_size, host, hosts)
    steps = rows.map(_ReadValid(source, share=workers > 0))
    return _iterate(steps, workers, source, batch_size // hosts)


def _rows(chosen: grain.MapDataset, batch_size: int, host: int, hosts: int) -> grain.MapDataset:
    """Returns, for each global batch, the list of what a host reads for it."""
    rows = slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)
    return chosen.batch(batch_size, batch_fn=list).map(lambda batch: batch[rows])


class _Read:
    """Reads the examples of a batch, each straight into its place.

    Stacking decoded pictures would copy them from cold memory into pages that the system has to
    clear first, which takes half as long as decoding.

    Args:
        source: the examples.
        resample: views are more than mirrored.
        share: read into shared memory of this worker process, which `_Receive` copies.
    """

    def __init__(self, source: Source, *, resample: bool = False, share: bool):
        self._source = source
        self._resample = resample
        self._share = share

    def __call__(self, chosen: Sequence[tuple[int, View]]) -> Element:
        images, result, rows = None, None, []
        for row, (index, view) in enumerate(chosen):
            found = self._source[int(index)]
            image = resample_view(found["image"], view) if self._resample else found["image"]
            if images is None:
                shape = (len(chosen), *image.shape)
                if self._share:
                    images, result = shared_arrays.OWN.lend(shape, np.uint8)
                else:
                    images = result = np.empty(shape, np.uint8)
            _copy(image, images[row], view.mirrored)
            values = {"index": np.int32(found.get("index", index)), "name": found["name"]}
            if "label" in found:
                values["label"] = np.int32(found["label"])
            if "codes" in found:
                values["codes"] = found["codes"][int(view.mirrored)]
            rows.append(values)
        # Some parts of a mixture may have labels and others not.
        keys = [key for key in rows[0] if all(key in values for values in rows)]
        return {"image": result} | {key: np.stack([row[key] for row in rows]) for key in keys}


class _ReadValid(_Read):
    """Reads the examples of an evaluation batch by their places in the pass."""

    def __init__(self, source: Source, *, share: bool):
        super().__init__(source, share=share)
        self._order = _interleaved(_lengths(source))

    def __call__(self, chosen: Sequence[int]) -> Element:
        places = np.asarray(chosen)
        wanted = self._order[places % len(self._source)]
        batch = super().__call__([(int(index), View()) for index in wanted])
        return batch | {"valid": (places < len(self._source)) & (batch["index"] == wanted)}


class _Receive(grain.transforms.Map):
    """Copies a batch's pictures from shared memory of the worker that read them."""

    def __init__(self):
        self._memories = {}  # Stay open for the next arrays.

    def map(self, element: Element) -> Element:
        shared = element["image"]
        self._memories[shared.slot] = shared.memory
        return element | {"image": shared.take()}


def _copy(
    image: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "h w 3"], mirrored: bool
) -> None:
    if not mirrored:
        target[...] = image
        return
    for channel in range(3):  # Twice as fast as whole pixels.
        target[..., channel] = image[:, ::-1, channel]


def _order(source: Source, seed: int) -> grain.MapDataset:
    """Returns the indices of the source's examples, in the order in which they are read."""
    weights = getattr(source, "weights", None)
    if weights is None:
        return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    streams, start = [], 0
    for number, length in enumerate(_lengths(source)):
        # Otherwise parts of equal length would have the same order.
        own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        indices = grain.MapDataset.range(start, start + length)
        streams.append(indices.shuffle(seed=own).repeat())
        start += length
    return grain.MapDataset.mix(streams, weights).seed(seed)


def _lengths(source: Source) -> list[int]:
    """Returns the lengths of the parts of a mixture, or of the only source."""
    return [len(part) for part in getattr(source, "sources", (source,))]


def _interleaved(lengths: Sequence[int]) -> np.ndarray:
    """Returns an order in which each part of a mixture is spread evenly."""
    spread = [(np.arange(length) + 0.5) / length for length in lengths]
    return np.argsort(np.concatenate(spread), kind="stable")


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that is not within 0..2**32-1."""
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(f"seed must be within 0..{_MAX_SEED}, got {seed}")


def _check(source: Source, batch_size: int, workers: int, host: int, hosts: int) -> None:
    if 0 in _lengths(source):
        raise ValueError("the source is empty; give at least one example")
    if workers < 0:
        raise ValueError(f"workers must be 0 (threads) or more, got {workers}")
    if hosts < 1 or not 0 <= host < hosts:
        raise ValueError(f"host must be within 0..hosts-1, got host={host} of hosts={hosts}")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of hosts={hosts}, which share it"
        )


def _start_worker(*_) -> None:
    end_with_parent(shared_arrays.OWN.close)
    keep_freed_memory()


def _iterate(
    steps: grain.MapDataset, workers: int, source: Source, rows: int, reduction: int = 1
) -> grain.DatasetIterator:
    """Returns an iterator that reads ahead, in threads or in processes, and keeps the order.

    Args:
        steps: the batches of this host; with processes, their pictures are in shared memory.
        workers: processes; 0 reads in threads.
        source: the examples.
        rows: examples of a batch.
        reduction: pixels of the source per pixel of a batch.
    """
    if workers == 0:
        threads = min(usable_cores(), _PREFETCHED)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCHED)
        return iter(steps.to_iter_dataset(options))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads its debug flags from absl.
    batch = rows * source[0]["image"].nbytes // reduction
    ahead = shared_arrays.has_room(workers, _SLOTS * batch, _FEWEST_SLOTS * batch)
    options = grain.ReadOptions(num_threads=int(ahead), prefetch_buffer_size=int(ahead))
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2 if ahead else 1
    )
    # Everything but the pictures is small and goes through a pipe: shared memory of grain's own is
    # not reserved, and Python warns at exit that some of it is left.
    by_pipe = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
    read = grain.experimental.WithOptionsIterDataset(steps.to_iter_dataset(options), by_pipe)
    return iter(read.mp_prefetch(processes, _start_worker).map(_Receive()))
