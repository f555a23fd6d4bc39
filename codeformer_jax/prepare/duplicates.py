"""Pictures that occur more than once, found over all shards.

Duplicates are exact: the same pixels after orientation, conversion, crop and resizing, whatever the
file's format, name and metadata.
"""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np

from codeformer_jax.prepare.build_plan import Plan
from codeformer_jax.prepare.shards import read_notes
from codeformer_jax.prepare.staging import Staging


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """A record that is left out: its position in its shard, and the name of the one that stays."""

    position: int
    kept: str


def find_duplicates(staging: Staging, plan: Plan) -> dict[int, dict[str, Duplicate]]:
    """Returns {shard: {name: Duplicate}} of the records to leave out.

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
    groups: dict[str, list[tuple[bool, str, int, int]]] = collections.defaultdict(list)
    for shard, position, name, digest in _records(staging, plan) if repeated else ():
        if _start(digest) in repeated:
            held = shard < plan.validation_shards
            groups[digest].append((held, name, shard, position))
    found: dict[int, dict[str, Duplicate]] = collections.defaultdict(dict)
    for members in groups.values():
        (_, kept, _, _), *others = sorted(members)
        for _, name, shard, position in others:
            found[shard][name] = Duplicate(position, kept)
    return dict(found)


def _records(staging: Staging, plan: Plan) -> Iterator[tuple[int, int, str, str]]:
    """Yields shard, position in it, name and digest of every record."""
    for shard in range(len(plan.shards)):
        records = (note for note in read_notes(staging, shard) if "sha256" in note)
        for position, note in enumerate(records):
            yield shard, position, note["name"], note["sha256"]


def _start(digest: str) -> int:
    return int(digest[:16], 16)
