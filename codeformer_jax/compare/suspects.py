"""Usual suspects: explanations of the first layer that differs, each tried on that layer."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Suspect:
    """An explanation that was tried.

    Attributes:
        name: short name, such as 'transposed kernel'.
        relative_l2: difference of the layer that is left with it.
        vanishes: whether that is within the tolerance.
        detail: what to look at.
    """

    name: str
    relative_l2: float
    vanishes: bool
    detail: str = ""

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.relative_l2:.1e} left{f' ({self.detail})' if self.detail else ''}"
        )


def try_suspects(a, b, pairs, tolerance):
    return []
