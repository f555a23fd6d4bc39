"""Pictures that occur more than once, found over all shards with 8 bytes of memory for each.

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
    """{shard: {name: Duplicate}} of the records to leave out, of shards that are all done.

    Of equal pictures one of the train split stays, if any is in it, and of these that with the
    smallest name: a file that is added moves no picture from train to validation.
    """
    starts = np.empty(sum(plan.sizes), np.uint64)
    count = 0
    for _, _, _, digest in _records(staging, plan):
        starts[count] = _start(digest)
        count += 1
    values, counts = np.unique(starts[:count], return_counts=True)
    repeated = set(values[counts > 1].tolist())
    if not repeated:
        return {}
    groups: dict[str, list[tuple[str, int, int]]] = collections.defaultdict(list)
    for shard, position, name, digest in _records(staging, plan):
        if _start(digest) in repeated:
            groups[digest].append((name, shard, position))
    found: dict[int, dict[str, Duplicate]] = collections.defaultdict(dict)
    for members in groups.values():
        (_, kept, _, _), *others = sorted(
            (shard < plan.validation_shards, name, shard, position)
            for name, shard, position in members
        )
        for _, name, shard, position in others:
            found[shard][name] = Duplicate(position, kept)
    return dict(found)


def _records(staging: Staging, plan: Plan) -> Iterator[tuple[int, int, str, str]]:
    """(shard, position in it, name, digest) of every record."""
    for shard in range(len(plan.sizes)):
        records = (note for note in read_notes(staging, shard) if "sha256" in note)
        for position, note in enumerate(records):
            yield shard, position, note["name"], note["sha256"]


def _start(digest: str) -> int:
    return int(digest[:16], 16)
