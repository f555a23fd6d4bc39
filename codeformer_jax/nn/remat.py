"""Rematerialisation: the backward pass recomputes activations instead of keeping them."""

import flax.linen as nn
import jax

# Short names, and the names of `jax.checkpoint_policies` without arguments.
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
    """Raises ValueError for an unknown policy; None means no rematerialisation."""
    if name is not None and name not in POLICIES:
        raise ValueError(f"remat is {name!r}; expected None or one of {', '.join(POLICIES)}")


def rematted(block: type[nn.Module], name: str | None) -> type[nn.Module]:
    """Returns `block` with the same parameters and values, whose gradient recomputes activations.

    Args:
        block: module class whose call takes arrays only.
        name: None returns `block` itself, 'full' keeps only a block's input, 'dots' also keeps the
            results of convolutions and matrix products; or another of `POLICIES`.

    Raises:
        ValueError: for another name.
    """
    check_policy(name)
    if name is None:
        return block
    return nn.remat(block, policy=getattr(jax.checkpoint_policies, _POLICIES[name]))


def compiler_options(name: str | None, platform: str) -> dict[str, str]:
    """Returns options of `jax.jit` for a gradient through rematted blocks.

    XLA's CPU compiler removes the barriers around them before it eliminates common subexpressions,
    and would keep the first result after all. These options replace passes disabled in XLA_FLAGS.

    Args:
        name: policy, see `rematted`.
        platform: `jax.Device.platform`.
    """
    if name is None or platform != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}
