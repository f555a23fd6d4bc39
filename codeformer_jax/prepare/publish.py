"""From shards that are done to a dataset in its place.

Every step can be interrupted and done again: what is there already is left as it is.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from codeformer_jax.prepare.build_plan import Plan, name_prefixes
from codeformer_jax.prepare.duplicates import Duplicate, find_duplicates
from codeformer_jax.prepare.shards import features, read_notes, rewrite_shard
from codeformer_jax.prepare.staging import (
    SPLITS,
    PrepareError,
    Staging,
    file_size,
    is_remote,
    move,
    new_file,
    read_lines,
    to_line,
)
from codeformer_jax.prepare.workers import run

INFO = "dataset_info.json"  # Written last: a folder with it is a whole dataset.

_NAME = "prepared"  # Not that of OUT, so that the same input gives the same files everywhere.
_LISTED = 10


class TooManyRejected(PrepareError):
    """More files were left out than `max_rejected`; nothing was published."""


def finish(staging: Staging, plan: Plan, max_rejected: int | None, workers: int | None) -> None:
    """Makes the dataset in the staging folder from shards that are all done, then `finished`.

    `workers` processes rewrite the shards that hold duplicates; 0 and None as of `run`.

    Raises:
      TooManyRejected: see there; the report stays in the staging folder.
      PrepareError: no picture is left.
    """
    duplicates = find_duplicates(staging, plan)
    counts = _write_report(staging, plan, duplicates)
    _check_rejected(staging, plan, counts, max_rejected)
    staging.dataset.mkdir(parents=True, exist_ok=True)
    splits, fingerprint = {}, hashlib.sha256()
    for split in SPLITS:
        lengths = _lengths(staging, plan, split, duplicates, fingerprint)
        if lengths:
            splits[split] = lengths
    if not splits:
        raise PrepareError(
            f"no picture is left: all {sum(plan.sizes)} were left out; see '{staging.report}'"
        )
    targets = _targets(staging.dataset, splits)
    _place(staging, plan, targets, duplicates, workers)
    staging.report.copy(staging.dataset / staging.report.name, overwrite=True)
    summary = {
        "splits": {split: sum(lengths.values()) for split, lengths in splits.items()},
        "rejected": counts,
        "size": plan.settings.size,
        "format": plan.settings.file_format,
        "min_size": plan.settings.min_size,
        "validation_fraction": plan.settings.validation_fraction,
        "max_megapixels": plan.settings.max_megapixels,
        "fingerprint": fingerprint.hexdigest(),
    }
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths.values()),
            num_bytes=sum(file_size(targets[shard]) for shard in lengths),
        )
        for split, lengths in splits.items()
    ]
    _write_metadata(staging.dataset, plan.settings.size, infos, summary)
    with new_file(staging.finished) as path:
        pathlib.Path(path).write_text(to_line(summary), encoding="utf-8")


def check_out(out: epath.Path, force: bool) -> None:
    """Raises where a dataset must not be put.

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
    """Moves a finished dataset to its place; `force` replaces a dataset there.

    A rename where the place is local. In a bucket, which has none, the files are moved one by one,
    that without which nobody can open the dataset last.

    Raises:
      FileExistsError, PrepareError: as `check_out`; somebody has put something there meanwhile.
    """
    out = staging.out
    try:
        check_out(out, force)
    except (FileExistsError, PrepareError) as error:
        free = "move it away" if force else "move it away or give --force"
        raise type(error)(
            f"{error}\nit came there during the build, whose dataset is kept in '{staging.root}': "
            f"{free}, and the same command, without --restart, publishes it and reads no file again"
        ) from error
    if not is_remote(out):
        if out.exists():
            if staging.replaced.exists():  # An interruption left it, and `out` is a newer one.
                staging.replaced.rmtree()
            # Aside first: at no time is there less than one whole dataset.
            os.rename(out, staging.replaced)
        os.rename(staging.dataset, out)
        return
    if (out / INFO).exists():  # Without it, these are files that an interrupted move has left.
        out.rmtree()
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(staging.dataset.iterdir(), key=lambda path: (path.name == INFO, path.name)):
        move(path, out / path.name)


def _rejections(
    staging: Staging, plan: Plan, duplicates: Mapping[int, Mapping[str, Duplicate]]
) -> Iterator[dict[str, str]]:
    prefixes = name_prefixes(plan.settings.sources)
    for source, relative in read_lines(staging.others):
        suffix = pathlib.PurePosixPath(relative).suffix
        reason = (
            f"the suffix '{suffix}' is not one of an image, nor (outside buckets) is the content"
        )
        yield {"name": prefixes[source] + relative, "kind": "other", "reason": reason}
    for shard in range(len(plan.sizes)):
        dropped = duplicates.get(shard, {})
        for note in read_notes(staging, shard):
            name = note["name"]
            if "kind" in note:
                yield note
            elif name in dropped:
                reason = f"the same picture as '{dropped[name].kept}'"
                yield {"name": name, "kind": "duplicate", "reason": reason}


def _write_report(
    staging: Staging, plan: Plan, duplicates: Mapping[int, Mapping[str, Duplicate]]
) -> dict[str, int]:
    """Writes `rejected.jsonl` and returns how many files there are of each kind."""
    counts: dict[str, int] = {}
    with new_file(staging.report) as path, open(path, "w", encoding="ascii") as file:
        for rejection in _rejections(staging, plan, duplicates):
            counts[rejection["kind"]] = counts.get(rejection["kind"], 0) + 1
            file.write(to_line(rejection))
    return dict(sorted(counts.items()))


def _check_rejected(
    staging: Staging, plan: Plan, counts: Mapping[str, int], max_rejected: int | None
) -> None:
    limit = max(10, sum(plan.sizes) // 100) if max_rejected is None else max_rejected
    # Files that never claimed to be images are listed, but say nothing about the others.
    counted = {kind: count for kind, count in counts.items() if kind != "other"}
    total = sum(counted.values())
    if total <= limit:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in counted.items())
    lines = []
    for rejection in read_lines(staging.report):
        if rejection["kind"] != "other":
            lines.append(f"  {rejection['name']}: {rejection['reason']}")
        if len(lines) == _LISTED:
            break
    more = [f"  and {total - len(lines)} more"] if total > len(lines) else []
    raise TooManyRejected(
        "\n".join(
            [
                f"{total} of {sum(plan.sizes)} images were left out ({kinds}), more than "
                f"max_rejected={limit}; nothing was published. '{staging.report}' lists them. Give "
                f"--max-rejected {total} to publish without them (what is done is kept), or repair "
                "the files and give --restart:",
                *lines,
                *more,
            ]
        )
    )


def _lengths(
    staging: Staging,
    plan: Plan,
    split: str,
    duplicates: Mapping[int, Mapping[str, Duplicate]],
    fingerprint: Any,
) -> dict[int, int]:
    """{shard: number of its records without duplicates} of a split, where it is not 0."""
    lengths: dict[int, int] = {}
    for shard in plan.shards(split):
        dropped = duplicates.get(shard, {})
        for note in read_notes(staging, shard):
            if "sha256" in note and note["name"] not in dropped:
                lengths[shard] = lengths.get(shard, 0) + 1
                fingerprint.update(to_line([note["name"], note["sha256"]]).encode())
    return lengths


def _targets(folder: epath.Path, splits: Mapping[str, Mapping[int, int]]) -> dict[int, epath.Path]:
    """{shard: its file in the dataset}."""
    return {
        shard: folder / f"{_NAME}-{split}.array_record-{index:05d}-of-{len(lengths):05d}"
        for split, lengths in splits.items()
        for index, shard in enumerate(lengths)
    }


def _place(
    staging: Staging,
    plan: Plan,
    targets: Mapping[int, epath.Path],
    duplicates: Mapping[int, Mapping[str, Duplicate]],
    workers: int | None,
) -> None:
    """Puts the shards into the dataset, those with duplicates without them."""
    jobs, records = [], 0
    for shard, target in targets.items():
        if target.exists():
            continue
        source = staging.records(shard)
        if shard not in duplicates:
            move(source, target)
            continue
        dropped = {duplicate.position for duplicate in duplicates[shard].values()}
        jobs.append((os.fspath(source), os.fspath(target), plan.settings.file_format, dropped))
        records += sum("sha256" in note for note in read_notes(staging, shard))
    if jobs:
        with tqdm(total=records, desc="duplicates", unit=" images", disable=None) as bar:
            run(rewrite_shard, jobs, workers, bar)


def _write_metadata(
    folder: epath.Path,
    size: int,
    infos: Sequence[tfds.core.SplitInfo],
    summary: Mapping[str, Any],
) -> None:
    """What `tfds.builder_from_directory` reads, by TFDS itself, and `metadata.json` for people."""
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(size),
        split_infos=list(infos),
        version="1.0.0",
        check_data=False,
        description=f"Square pictures of {size} px, made by codeformer-jax prepare.",
        metadata=tfds.core.MetadataDict(summary),
    )
