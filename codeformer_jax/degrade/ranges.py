"""Checks of a recipe's numbers: ranges, probabilities and shares, as float32 arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

# (name, value) -> array; raises ValueError for a value out of range.
Check = Callable[[str, Any], Array]
# {name: (check, default)} of a section.
Settings = Mapping[str, tuple[Check, Any]]


def within(low: float | int, high: float | int) -> Check:
    """Returns a check of (a, b) with low <= a <= b <= high, an array [2]."""

    def check(name: str, value: Any) -> Array:
        pair = _numbers(value)
        if pair.shape != (2,) or not low <= pair[0] <= pair[1] <= high:
            raise ValueError(
                f"{name} is {value!r}: expected (low, high) with "
                f"{low:g} <= low <= high <= {high:g}."
            )
        return jnp.asarray(pair, jnp.float32)

    return check


def whole(low: int, high: int) -> Check:
    """Returns a check like `within`, for integers."""

    def check(name: str, value: Any) -> Array:
        pair = within(low, high)(name, value)
        if np.any(pair % 1):
            raise ValueError(f"{name} is {value!r}: expected whole numbers.")
        return pair

    return check


def number(low: float | int, high: float | int) -> Check:
    """Returns a check of one number from low to high, an array []."""

    def check(name: str, value: Any) -> Array:
        given = _numbers(value)
        if given.shape != () or not low <= given <= high:
            raise ValueError(f"{name} is {value!r}: expected a number in [{low:g}, {high:g}].")
        return jnp.asarray(given, jnp.float32)

    return check


def probability(name: str, value: Any) -> Array:
    """Checks a probability; returns an array []."""
    return number(0, 1)(name, value)


def shares(*kinds: str) -> Check:
    """Returns a check of shares of `kinds`, probabilities that sum to 1, an array [len(kinds)]."""

    def check(name: str, value: Any) -> Array:
        given = _numbers(value)
        good = given.shape == (len(kinds),) and given.min() >= 0
        if not good or abs(given.sum() - 1) > 1e-6:
            raise ValueError(
                f"{name} is {value!r}: expected {len(kinds)} probabilities that sum to 1, "
                f"of {', '.join(kinds)}."
            )
        return jnp.asarray(given, jnp.float32)

    return check


def read(section: str, given: Any, settings: Settings) -> dict[str, Array]:
    """Returns a config's section as {name: array}.

    Args:
        section: name of the section, for error messages.
        given: section of a config; settings that it lacks get their defaults.
        settings: {name: (check, default)} of every setting that the section may have.

    Raises:
        ValueError: for an unknown setting or a value out of range.
    """
    if not hasattr(given, "items"):
        raise ValueError(f"{section} is {given!r}: expected a section with {sorted(settings)}.")
    given = dict(given.items())
    if unknown := sorted(set(given) - set(settings)):
        raise ValueError(f"{section} may have {sorted(settings)}: unknown {unknown}.")
    return {
        name: check(f"{section}.{name}", given.get(name, default))
        for name, (check, default) in settings.items()
    }


def _numbers(value: Any) -> np.ndarray:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return np.full((0, 0, 0), np.nan)  # No check accepts this shape.
