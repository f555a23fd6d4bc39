"""Publication of finished shards as a dataset.

Every step can be interrupted and repeated: what is there already stays.
"""

import collections
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from codeformer_jax.prepare.build_plan import SPLITS, Plan
from codeformer_jax.prepare.shards import features, rewrite_shard
from codeformer_jax.prepare.staging import (
    PrepareError,
    Staging,
    read_lines,
    to_line,
)
from codeformer_jax.prepare.workers import run
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.storage import is_remote

INFO = "dataset_info.json"  # Written last: a folder with it is a whole dataset.

_NAME = "prepared"  # Not that of OUT, so that the same input gives the same files everywhere.
_LISTED = 10

Dropped = Mapping[int, Mapping[str, str]]  # As `find_duplicates` returns them.


class TooManyRejected(PrepareError):
    """More files were left out than `max_rejected`; nothing was published."""


def finish(
    staging: Staging, plan: Plan, max_rejected: int | None, workers: int | None
) -> dict[str, Any]:
    """Makes the dataset in the staging folder from shards that are all done.

    Args:
        staging: the build.
        plan: its shards.
        max_rejected: images that may be left out; None is one in a hundred, and at least 10.
        workers: processes that rewrite the shards with duplicates; 0 and None as of `run`.

    Returns:
        The contents of `metadata.json`.

    Raises:
        TooManyRejected: too many; the report stays in the staging folder.
        PrepareError: no picture is left.
    """
    dropped = find_duplicates(staging, plan)
    counts = _write_report(staging, plan, dropped)
    _check_rejected(staging, plan, counts, max_rejected)
    fingerprint = hashlib.sha256()
    lengths = {split: _lengths(staging, plan, split, dropped, fingerprint) for split in SPLITS}
    lengths = {split: shards for split, shards in lengths.items() if shards}
    if not lengths:
        raise PrepareError(
            f"no picture is left: all {plan.number} were left out; see '{staging.report}'"
        )
    targets = _place(staging, plan, lengths, dropped, workers)
    staging.report.copy(staging.dataset / staging.report.name, overwrite=True)
    settings = plan.settings
    summary = {
        "splits": {split: sum(shards.values()) for split, shards in lengths.items()},
        "rejected": counts,
        "size": settings.size,
        "format": settings.file_format,
        "min_size": settings.min_size,
        "validation_fraction": settings.validation_fraction,
        "max_megapixels": settings.max_megapixels,
        "fingerprint": fingerprint.hexdigest(),
    }
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(shards.values()),
            num_bytes=sum(storage.size(targets[shard]) for shard in shards),
        )
        for split, shards in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=staging.dataset,
        features=features(settings.size),
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        description=f"Square pictures of {settings.size} px, made by codeformer-jax prepare.",
        metadata=tfds.core.MetadataDict(summary),  # As metadata.json, for people.
    )
    return summary


def check_out(out: epath.Path, force: bool) -> None:
    """Checks that a dataset may be put at `out`.

    Args:
        out: the folder.
        force: replace a dataset there.

    Raises:
        FileExistsError: `out` exists, and `force` is not given.
        PrepareError: `out` is no dataset, which `force` does not replace.
    """
    complete = (out / INFO).exists()
    if not (complete if is_remote(out) else out.exists()):
        return
    if not force:
        raise FileExistsError(f"'{out}' exists; give another OUT, or --force to replace a dataset")
    if not complete:
        raise PrepareError(
            f"'{out}' is no dataset (it has no {INFO}), so --force does not replace it; move it "
            "away, or give another OUT"
        )


def publish(staging: Staging, force: bool) -> None:
    """Moves a finished dataset to its place.

    A local dataset is renamed. In a bucket, which has no renames, the files are copied one by one,
    the one without which nobody can open the dataset last.

    Args:
        staging: the build.
        force: replace a dataset there.

    Raises:
        FileExistsError, PrepareError: as `check_out`; something has come there meanwhile.
    """
    out = staging.out
    check_out(out, force)
    if is_remote(out):
        if (out / INFO).exists():  # Otherwise these are files that an interrupted copy has left.
            (out / INFO).unlink()  # First, so that nothing opens a dataset that is going.
            storage.remove(out)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(staging.dataset.iterdir(), key=lambda path: (path.name == INFO, path)):
            path.copy(out / path.name, overwrite=True)
        return
    if staging.replaced.exists():  # A kill left it, and `out` is a newer one.
        staging.replaced.rmtree()
    if out.exists():
        os.rename(out, staging.replaced)  # At no time is there less than one whole dataset.
    try:
        os.rename(staging.dataset, out)
    except OSError:
        if staging.replaced.exists():
            os.rename(staging.replaced, out)
        raise


def _rejections(staging: Staging, plan: Plan, dropped: Dropped) -> Iterator[dict[str, str]]:
    for name in plan.others:
        reason = (
            f"the suffix '{os.path.splitext(name)[1]}' is not one of an image, nor "
            "(outside buckets) is the content"
        )
        yield {"name": name, "kind": "other", "reason": reason}
    for shard in range(len(plan.shards)):
        duplicates = dropped.get(shard, {})
        for note in read_lines(staging.notes(shard)):
            name = note["name"]
            if "kind" in note:
                yield note
            elif name in duplicates:
                reason = f"the same picture as '{duplicates[name]}'"
                yield {"name": name, "kind": "duplicate", "reason": reason}


def _write_report(staging: Staging, plan: Plan, dropped: Dropped) -> dict[str, int]:
    """Writes `rejected.jsonl` and returns the number of files of each kind."""
    counts: dict[str, int] = {}
    with atomic_path(staging.report) as path, open(path, "w", encoding="ascii") as file:
        for rejection in _rejections(staging, plan, dropped):
            counts[rejection["kind"]] = counts.get(rejection["kind"], 0) + 1
            file.write(to_line(rejection))
    return dict(sorted(counts.items()))


def _check_rejected(
    staging: Staging, plan: Plan, counts: Mapping[str, int], max_rejected: int | None
) -> None:
    limit = max(10, plan.number // 100) if max_rejected is None else max_rejected
    # Files that never claimed to be images are listed, but say nothing about the others.
    counted = {kind: count for kind, count in counts.items() if kind != "other"}
    total = sum(counted.values())
    if total <= limit:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted.items())
    found = (each for each in read_lines(staging.report) if each["kind"] != "other")
    lines = [f"  {each['name']}: {each['reason']}" for each in itertools.islice(found, _LISTED)]
    if total > len(lines):
        lines.append(f"  and {total - len(lines)} more")
    message = (
        f"{total} of {plan.number} images were left out ({kinds}), more than "
        f"max_rejected={limit}; nothing was published. '{staging.report}' lists them. Give "
        f"--max-rejected {total} to publish without them (what is done is kept), or repair "
        "the files and give --restart:"
    )
    raise TooManyRejected("\n".join([message, *lines]))


def _lengths(
    staging: Staging, plan: Plan, split: str, dropped: Dropped, fingerprint: Any
) -> dict[int, int]:
    """Returns {shard: number of its records without duplicates} of a split, where it is not 0."""
    lengths: dict[int, int] = {}
    for shard in plan.of_split(split):
        duplicates = dropped.get(shard, {})
        for note in read_lines(staging.notes(shard)):
            if "sha256" in note and note["name"] not in duplicates:
                lengths[shard] = lengths.get(shard, 0) + 1
                fingerprint.update(to_line([note["name"], note["sha256"]]).encode())
    return lengths


def _place(
    staging: Staging,
    plan: Plan,
    splits: Mapping[str, Mapping[int, int]],
    dropped: Dropped,
    workers: int | None,
) -> dict[int, epath.Path]:
    """Puts the shards into the dataset, without duplicates; returns the file of each."""
    targets, jobs = {}, []
    for split, lengths in splits.items():
        for index, (shard, length) in enumerate(lengths.items()):
            name = f"{_NAME}-{split}.array_record-{index:05d}-of-{len(lengths):05d}"
            source, target = staging.records(shard), staging.dataset / name
            targets[shard] = target
            if target.exists():
                continue
            if shard not in dropped:
                storage.move(source, target)
                continue
            paths = os.fspath(staging.out), shard, os.fspath(target)
            jobs.append((length, (*paths, plan.settings.file_format, set(dropped[shard]))))
    total = sum(length for length, _ in jobs)
    with tqdm(total=total, desc="duplicates", unit=" images", disable=not jobs or None) as bar:
        run(rewrite_shard, jobs, workers, bar)
    return targets


def find_duplicates(staging: Staging, plan: Plan) -> dict[int, dict[str, str]]:
    """Returns {shard: {name: name of the equal picture that stays}} of the records to leave out.

    Pictures are equal if their pixels are, after orientation, conversion, crop and resizing. Among
    equal pictures one of the train split stays, if any is in it, and among these the one with
    the smallest name: a file that is added moves no picture from train to validation.

    Args:
        staging: the build, whose shards are all done.
        plan: its shards.
    """
    # Two passes, since 8 bytes for each picture fit into memory and all digests may not.
    starts = np.fromiter((_start(digest) for *_, digest in _records(staging, plan)), np.uint64)
    values, counts = np.unique(starts, return_counts=True)
    repeated = set(values[counts > 1].tolist())
    groups: dict[str, list[tuple[bool, str, int]]] = collections.defaultdict(list)
    for shard, name, digest in _records(staging, plan) if repeated else ():
        if _start(digest) in repeated:
            held = shard < plan.validation_shards
            groups[digest].append((held, name, shard))
    found: dict[int, dict[str, str]] = collections.defaultdict(dict)
    for members in groups.values():
        (_, kept, _), *others = sorted(members)
        for _, name, shard in others:
            found[shard][name] = kept
    return dict(found)


def _records(staging: Staging, plan: Plan) -> Iterator[tuple[int, str, str]]:
    """Yields shard, name and digest of every record."""
    for shard in range(len(plan.shards)):
        for note in read_lines(staging.notes(shard)):
            if "sha256" in note:
                yield shard, note["name"], note["sha256"]


def _start(digest: str) -> int:
    return int(digest[:16], 16)
