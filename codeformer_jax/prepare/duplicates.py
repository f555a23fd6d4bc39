"""Pictures that occur more than once, found over all shards.

Duplicates are exact: the same pixels after orientation, conversion, crop and resizing, whatever the
file's format, name and metadata.
"""

import collections
from collections.abc import Iterator

import numpy as np

from codeformer_jax.prepare.build_plan import Plan
from codeformer_jax.prepare.staging import Staging, read_lines


def find_duplicates(staging: Staging, plan: Plan) -> dict[int, dict[str, str]]:
    """Returns {shard: {name: name of the equal picture that stays}} of the records to leave out.

    Among equal pictures one of the train split stays, if any is in it, and among these the one with
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
