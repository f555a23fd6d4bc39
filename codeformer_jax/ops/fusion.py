"""Programs that XLA's CPU compiler needs in place of those for accelerators.

`materialized` computes an array once. The CPU compiler fuses an elementwise chain into every
operation that reads it, whatever the chain costs, and drops `jax.lax.optimization_barrier` before
it does so. Noise that a JPEG's three planes and their edges read was drawn a dozen times.

`update_where` avoids a copy. To choose elementwise between an old and a new value, the CPU compiler
copies an old one that other operations also read; an optimizer took three times as long.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Bool, Shaped

Tree = TypeVar("Tree")


def materialized(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """Returns `x`, computed once for all operations that read it; a no-op on accelerators."""
    return jax.lax.platform_dependent(x, cpu=_written_down, default=lambda x: x)


def _written_down(x: Array) -> Array:
    # Only a call that must not be inlined stops fusion.
    with set_xla_metadata(inlineable="false"):
        return _identity(x)


@jax.jit
def _identity(x: Array) -> Array:
    # JAX drops a function that only returns its argument.
    return x * x.dtype.type(1)


def update_where(condition: Bool[Array, ""], update: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """Returns `update(tree)` if the condition holds, else `tree`.

    A CPU branches. An accelerator would wait for the host at a branch, so it chooses elementwise.

    Args:
        condition: scalar, traced.
        update: function that keeps the tree's structure, shapes and dtypes.
        tree: arrays.
    """

    def branch(tree: Tree) -> Tree:
        return jax.lax.cond(condition, update, lambda same: same, tree)

    def select(tree: Tree) -> Tree:
        return jax.tree.map(lambda new, old: jnp.where(condition, new, old), update(tree), tree)

    return jax.lax.platform_dependent(tree, cpu=branch, default=select)
