"""Where XLA's CPU compiler needs another program than those of accelerators.

`materialized`: it has to write an array down instead of computing it again. It fuses an elementwise
chain into every operation that reads it, once for each, whatever the chain costs, and drops
`jax.lax.optimization_barrier` before it does. So noise that a JPEG's three planes and their edges
read was drawn a dozen times.

`update_where`: to choose elementwise between an old and a new value it copies the old one, which
other operations read too. An optimizer took three times as long.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Bool, Shaped

Tree = TypeVar("Tree")


def materialized(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """`x`, computed once however many operations read it; on accelerators nothing at all."""
    return jax.lax.platform_dependent(x, cpu=_written_down, default=lambda x: x)


def _written_down(x: Array) -> Array:
    # The one thing that nothing is fused across: a call that must not be inlined.
    with set_xla_metadata(inlineable="false"):
        return _identity(x)


@jax.jit
def _identity(x: Array) -> Array:
    # The product keeps JAX from dropping a function that returns its argument.
    return x * x.dtype.type(1)


def update_where(condition: Bool[Array, ""], update: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """`update(tree)` where the condition holds, else `tree`; on a CPU by a branch.

    An accelerator's program would wait for the host at a branch, so there it chooses elementwise.

    Args:
        update: keeps the tree's structure, shapes and dtypes.
    """

    def branch(tree: Tree) -> Tree:
        return jax.lax.cond(condition, update, lambda same: same, tree)

    def select(tree: Tree) -> Tree:
        return jax.tree.map(lambda new, old: jnp.where(condition, new, old), update(tree), tree)

    return jax.lax.platform_dependent(tree, cpu=branch, default=select)
