"""Pairs of entries of two traces: by name, by the converter's names, by shape and order."""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from codeformer_jax.compare.trace import Entry, Trace, TraceError
from codeformer_jax.convert import NETWORKS, detect_network
from codeformer_jax.convert.state_dicts import unwrap

# Pair by order only if fewer than this share of the shorter trace has a name in common. A wrong
# pair would look like a difference.
_FEW = 0.5


class Pair(NamedTuple):
    """Two entries of one layer, and how they were found: 'name', 'converter' or 'order'."""

    ours: Entry
    theirs: Entry
    by: str


def pair(a: Trace, b: Trace) -> tuple[list[Pair], list[Entry], list[Entry]]:
    """Pairs the entries of two traces.

    Returns:
        The pairs in the execution order of `a`, and the entries of `a` and of `b` that are left.

    Raises:
        TraceError: no entry has a counterpart.
    """
    first, second = ([e for e in t.entries if e.kind != "margin"] for t in (a, b))
    found = _by_key(first, second, _key, "name")
    left = _left(first, second, found)
    names_a, names_b = _converted(a), _converted(b)
    if names_a or names_b:
        own = {id(e): names_a for e in first} | {id(e): names_b for e in second}
        found |= _by_key(*left, lambda e: (e.kind, _translate(e.name, own[id(e)])), "converter")
        left = _left(first, second, found)
    if len(found) < _FEW * min(len(first), len(second)):
        found |= _by_order(*left)
        left = _left(first, second, found)
    if not found:
        raise TraceError(
            f"no layer of one trace has a counterpart in the other: names such as "
            f"{first[0].name if first else '(none)'!r} and "
            f"{second[0].name if second else '(none)'!r}, and no common sequence of shapes"
        )
    return [found[id(e)] for e in first if id(e) in found], *left


def _key(entry: Entry) -> tuple[str, str]:
    return entry.kind, entry.name


def _by_key(first, second, key, by) -> dict[int, Pair]:
    table = {key(entry): entry for entry in second}
    return {id(e): Pair(e, table[key(e)], by) for e in first if key(e) in table}


def _left(first, second, found) -> tuple[list[Entry], list[Entry]]:
    taken = {id(pair.theirs) for pair in found.values()}
    return [e for e in first if id(e) not in found], [e for e in second if id(e) not in taken]


def _by_order(first, second) -> dict[int, Pair]:
    """Pairs the longest common sequences of shapes."""
    shapes = [[(e.kind, e.shape) for e in entries] for entries in (first, second)]
    blocks = difflib.SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks()
    return {
        id(first[block.a + i]): Pair(first[block.a + i], second[block.b + i], "order")
        for block in blocks
        for i in range(block.size)
    }


def _converted(trace: Trace) -> dict[str, str]:
    """Returns {name in the trace: published name} of parameters and modules, where they differ.

    The converter's `rename` gets a state dict of the trace's names. Each array holds its own
    number, so the result shows where each name went.
    """
    names = list(trace.weights)
    table = {
        name: np.broadcast_to(np.float32(number), trace.weights[name]["shape"])
        for number, name in enumerate(names)
    }
    try:
        table = unwrap(table)
        network = trace.network if trace.network in NETWORKS else detect_network(table)
        renamed = NETWORKS[network].rename(table, {})
    except (ValueError, LookupError, TypeError, AttributeError):  # `rename` may be a user's.
        return {}
    found = {}
    for published, array in renamed.items():
        if np.size(array) == 0:
            continue
        theirs, ours = names[int(np.ravel(array)[0])].split("."), published.split(".")
        while theirs != ours:
            found[".".join(theirs)] = ".".join(ours)
            if len(theirs) < 2 or len(ours) < 2 or theirs[-1] != ours[-1]:
                break
            theirs, ours = theirs[:-1], ours[:-1]
    return found


def _translate(name: str, known: Mapping[str, Any]) -> str:
    """Returns a name with the longest known module at its start translated."""
    stem, number, place = name.partition("#")
    parts = stem.split(".")
    for end in range(len(parts), 0, -1):
        if (head := ".".join(parts[:end])) in known:
            return ".".join([known[head], *parts[end:]]) + number + place
    return name
