"""Per-image work on several devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def on_each_device(function: Callable[..., Any], *batch: Any) -> Any:
    """Calls `function` on every device with that device's images, where a mesh is in use."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(n for n, t in zip(mesh.axis_names, mesh.axis_types, strict=True) if t == AxisType.Auto)
    size = jax.tree.leaves(batch)[0].shape[0]
    if len(axes) < len(mesh.axis_names) or mesh.size <= 1 or size % mesh.size:
        return function(*batch)
    rows = PartitionSpec(axes)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*batch)
