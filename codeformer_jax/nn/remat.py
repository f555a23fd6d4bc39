"""Rematerialisation: activations that the backward pass computes again instead of keeping them."""

import flax.linen as nn
import jax

# Short names, and those of `jax.checkpoint_policies` that take no arguments.
_POLICIES = {
    "full": "nothing_saveable",
    "dots": "dots_saveable",
    **{
        name: name
        for name in (
            "everything_saveable",
            "nothing_saveable",
            "dots_saveable",
            "dots_with_no_batch_dims_saveable",
        )
    },
}
POLICIES = tuple(_POLICIES)


def check_policy(name: str | None) -> None:
    """Raises ValueError where there is no such policy; None is no rematerialisation."""
    if name is not None and name not in POLICIES:
        raise ValueError(f"remat is {name!r}; expected None or one of {', '.join(POLICIES)}")


def rematted(block: type[nn.Module], name: str | None) -> type[nn.Module]:
    """`block` with the same parameters and values, whose gradient keeps what the policy says.

    Args:
        block: a module class whose call takes arrays only.
        name: None (as it is), 'full' (a block's input alone is kept), 'dots' (what its
            convolutions and matrix products give is kept besides), or another of `POLICIES`.

    Raises:
        ValueError: for another name.
    """
    check_policy(name)
    if name is None:
        return block
    return nn.remat(block, policy=getattr(jax.checkpoint_policies, _POLICIES[name]))


def compiler_options(name: str | None, platform: str) -> dict[str, str]:
    """For `jax.jit` of a gradient through rematted blocks, so that they are computed again.

    XLA's CPU compiler removes the barriers around them before it looks for what is computed twice,
    and would keep the first result after all. Where XLA_FLAGS disable passes, these options take
    the place of that setting.

    Args:
        name: as of `rematted`.
        platform: as of `jax.Device.platform`.
    """
    if name is None or platform != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}
