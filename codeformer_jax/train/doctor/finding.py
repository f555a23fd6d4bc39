"""What the checks of a machine share: their results, their report, and the limit of each."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codeformer_jax.system import hosts

# Seconds that a check may take. After them it prints the stacks and ends the process.
LIMIT = 120.0
# Bytes that show a rate. Fewer show the latency.
ENOUGH = 16 << 20
Report = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        what: what was expected, and what was found.
        remedy: what to do.
    """

    what: str
    remedy: str


@contextlib.contextmanager
def limited(stage: str, seconds: float | None = None) -> Iterator[None]:
    """Ends this process, with its stacks, if the block takes too long.

    Args:
        stage: what happens in the block, for this process's message and those of the others.
        seconds: the limit; 0 is none for a single process; default: `LIMIT`.
    """
    hosts.at(stage)  # Its time starts before the limit holds.
    with hosts.limited(LIMIT if seconds is None else seconds, "codeformer-jax doctor"):
        hosts.at(stage)
        yield
