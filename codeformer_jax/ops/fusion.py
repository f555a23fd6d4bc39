"""Where XLA's CPU compiler has to write an array down instead of computing it again.

It fuses an elementwise chain into every operation that reads it, once for each, whatever the chain
costs, and drops `jax.lax.optimization_barrier` before it does. So noise that a JPEG's three planes
and their edges read was drawn a dozen times.
"""

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Shaped


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
