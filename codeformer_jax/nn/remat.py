"""Rematerialisation: activations that the backward pass computes again instead of keeping them."""

from typing import Any

import flax.linen as nn
import jax


def _products_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keeps what convolutions and matrix products give; norms and activations are cheap."""
    return primitive in (jax.lax.conv_general_dilated_p, jax.lax.dot_general_p)


# `None` as a policy keeps nothing but a block's input.
_OURS = {"full": None, "products": _products_saveable}
_JAX = (
    "everything_saveable",
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
)
POLICIES = (*_OURS, *_JAX)


def check_policy(name: str | None) -> None:
    """Raises ValueError where there is no such policy; None is no rematerialisation."""
    if name is not None and name not in POLICIES:
        raise ValueError(f"remat is {name!r}; expected None or one of {', '.join(POLICIES)}")


def rematted(block: type[nn.Module], name: str | None) -> type[nn.Module]:
    """`block` with the same parameters and values, whose gradient keeps what the policy says.

    Args:
        block: a module class whose call takes arrays only.
        name: None (as it is), 'full' (a block's input alone is kept), 'products' (what its
            convolutions and matrix products give is kept besides), or a policy of
            `jax.checkpoint_policies` that takes no arguments.

    Raises:
        ValueError: for another name.
    """
    check_policy(name)
    if name is None:
        return block
    policy = _OURS[name] if name in _OURS else getattr(jax.checkpoint_policies, name)
    return nn.remat(block, policy=policy)
