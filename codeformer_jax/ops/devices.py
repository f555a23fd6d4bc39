"""Placement of computations and arrays on the devices of a mesh.

Both functions use the current mesh (`jax.set_mesh`, or `jax.sharding.use_abstract_mesh` while a
program is traced) if its axes are automatic; otherwise they have no effect. They name no axis: a
batch is sharded over all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec


def on_each_device(function: Callable[..., Any], *batch: Any) -> Any:
    """Returns `function(*batch)`, where each device computes its own images alone.

    The compiler cannot split some operations over a batch (transforms, loops over images, gathers)
    and sends the whole batch to every device instead. If the number of devices does not divide the
    batch, the compiler decides.

    Args:
        function: function of a batch of any size, in which images do not depend on each other.
        *batch: trees of arrays [b, ...].
    """
    mesh = _mesh()
    size = jax.tree.leaves(batch)[0].shape[0]
    if mesh is None or size % mesh.size:
        return function(*batch)
    rows = PartitionSpec(mesh.axis_names)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*batch)


def on_all_devices(tree: Any) -> Any:
    """Returns the arrays of `tree`, each replicated on every device.

    Parameters before their use and gradients after their sum are replicated, so that the sharding
    of neither spreads to the activations between them.
    """
    return tree if _mesh() is None else jax.lax.with_sharding_constraint(tree, PartitionSpec())


def _mesh() -> AbstractMesh | None:
    """Returns the current mesh if it has several devices and automatic axes."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh if mesh.size > 1 and automatic else None
