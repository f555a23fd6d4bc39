"""Condition tokens of a transformer prior, checked before anything is compiled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Int32, Integer

from codeformer_jax.nn import GPT


def start_tokens(module: GPT, batch: int) -> Int32[np.ndarray, "b 1"]:
    """Returns the start token of an unconditional prior.

    Args:
        module: the prior.
        batch: number of samples.

    Returns:
        Tokens [batch, 1].

    Raises:
        ValueError: if the prior has a condition.
    """
    _check_kind(module, "start")
    return np.zeros((batch, 1), np.int32)


def class_tokens(module: GPT, classes: Sequence[int]) -> Int32[np.ndarray, "b 1"]:
    """Returns class tokens.

    Args:
        module: the prior.
        classes: one class per sample, 0 to module.classes - 1.

    Returns:
        Tokens [b, 1].

    Raises:
        ValueError: if the prior has no classes, or a class is out of range.
    """
    _check_kind(module, "class")
    if unknown := sorted({int(c) for c in classes if not 0 <= c < module.classes}):
        raise ValueError(
            f"class {', '.join(map(str, unknown))} is unknown; this prior has the classes 0 to "
            f"{module.classes - 1}"
        )
    return np.asarray(classes, np.int32)[:, None]


def code_tokens(
    module: GPT, codes: Integer[np.ndarray, "b *n"] | Integer[Array, "b *n"]
) -> Int32[np.ndarray, "b *n"]:
    """Returns condition codes as tokens.

    Args:
        module: the prior.
        codes: [b, condition_length], or maps [b, h, w] of the same size as the maps to sample;
            each window then sees the part of the map below it.

    Returns:
        Tokens of the same shape.

    Raises:
        ValueError: if a code is outside the vocabulary, or the prior has no condition of codes.
    """
    _check_kind(module, "codes")
    codes = np.asarray(codes)
    if codes.size and not 0 <= codes.min() <= codes.max() < module.vocab_size:
        raise ValueError(
            f"condition codes from {codes.min()} to {codes.max()}; this prior knows 0 to "
            f"{module.vocab_size - 1}"
        )
    return codes.astype(np.int32)


def _check_kind(module: GPT, kind: str) -> None:
    if module.condition != kind:
        made = {"start": "start_tokens", "class": "class_tokens", "codes": "code_tokens"}
        raise ValueError(
            f"this prior's condition is {module.condition!r}, not {kind!r}; make its tokens with "
            f"{made[module.condition]}"
        )
