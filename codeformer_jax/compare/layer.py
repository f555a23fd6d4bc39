"""One layer of a traced network, taken out so that it can be computed again in other ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.compare import layout
from codeformer_jax.compare.trace import Entry
from codeformer_jax.nn.recording import recorded_calls

# So many earlier outputs are kept as possible sources of the layer's input.
_SOURCES = 4


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module call with its arguments.

    Attributes:
        network: see `Trace`.
        name: PyTorch's name of the module.
        place: which part of the output is meant.
        module: the module, unbound.
        variables: its own variables.
        args, kwargs: its arguments.
        sources: outputs of earlier calls that have the shape of the first argument, last first.
        reads_input: whether the first argument is the network's.
        others: {name: variables of the same module} in other weights of the same file.
    """

    network: str
    name: str
    place: str
    module: Any
    variables: Mapping[str, Any]
    args: tuple
    kwargs: Mapping[str, Any]
    sources: tuple[jax.Array, ...]
    reads_input: bool
    others: Mapping[str, Mapping[str, Any]]

    @property
    def params(self) -> Mapping[str, Any]:
        """Parameters of the module."""
        return self.variables.get("params", {})

    @property
    def x(self) -> jax.Array | None:
        """First argument, None if there is none."""
        return self.args[0] if self.args else None

    def apply(
        self,
        *,
        module: Any = None,
        params: Mapping[str, Any] | None = None,
        x: jax.Array | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> jax.Array:
        """Returns the output, with parts of the call replaced.

        Args:
            module, params, x, kwargs: replacements; None keeps the layer's own.
        """
        variables = self.variables if params is None else {**self.variables, "params": params}
        args = self.args if x is None else (x, *self.args[1:])
        mutable = [name for name in variables if name == "batch_stats"]
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            output, _ = (module or self.module).apply(
                variables, *args, mutable=mutable, **{**self.kwargs, **(kwargs or {})}
            )
        index = dict(layout.places(self.network, self.name, output))[self.place]
        return jax.tree.leaves(output)[index]

    def as_stored(self, output: jax.Array, stride: int) -> np.ndarray:
        """Returns an output as a trace keeps it: in PyTorch's layout, subsampled.

        Args:
            output: return value of `apply`, or like it.
            stride: see `Entry`.
        """
        array = np.asarray(
            output.transpose(layout.torch_axes(self.network, self.name, output.ndim))
        )
        return array[..., ::stride, ::stride] if stride > 1 else array


def find_layer(rerun: Any, entry: Entry) -> Layer | None:
    """Computes a network up to its layers again and returns the one that made an entry.

    Args:
        rerun: see `record.Rerun`.
        entry: entry of the trace that was made from it.

    Returns:
        The layer, or None for an entry that no module returned, or the whole network did.
    """
    found: dict[str, Any] = {}

    def run(variables, args):
        mutable = [name for name in variables if name == "batch_stats"]
        with recorded_calls() as calls:
            rerun.module.apply(variables, *args, mutable=mutable, **rerun.kwargs)
        names = layout.module_names(rerun.network, variables, {call.path for call in calls})
        for index, call in enumerate(calls):
            place = _place_of(rerun.network, names[call.path], call, entry.name)
            if place is None or not call.path:
                continue
            leaves, tree = jax.tree.flatten(call.args)
            arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
            found.update(call=call, name=names[call.path], place=place, leaves=leaves, tree=tree)
            first = leaves[0] if leaves else None
            earlier = [
                leaf
                for before in reversed(calls[:index])
                for leaf in jax.tree.leaves(before.output)[:1]
                if leaf.shape == getattr(first, "shape", None)
            ]
            return arrays, tuple(earlier[:_SOURCES])
        return {}, ()

    arrays, sources = jax.jit(run)(rerun.variables, rerun.args)
    if not found:
        return None
    call = found["call"]
    args = found["tree"].unflatten([arrays.get(i, x) for i, x in enumerate(found["leaves"])])
    first = next(iter(args), None)
    given = rerun.args[0] if rerun.args else None
    return Layer(
        network=rerun.network,
        name=found["name"],
        place=found["place"],
        module=call.module.clone(parent=None, name=None),
        variables=_below(rerun.variables, call.path),
        args=args,
        kwargs=call.kwargs,
        sources=sources,
        reads_input=getattr(first, "shape", 0) == getattr(given, "shape", 1)
        and bool(jnp.array_equal(first, given)),
        others={name: _below(tree, call.path) for name, tree in rerun.others.items()},
    )


def _place_of(network: str, module: str, call: Any, name: str) -> str | None:
    """Returns the place in a call's output that has an entry's name, or None."""
    numbered = f"{module}#{call.number}" if call.number else module
    for place, _ in layout.places(network, module, call.output):
        if name == (f"{numbered}.{place}" if place else numbered):
            return place
    return None


def _below(variables: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Returns the variables of the module at a path."""

    def below(tree):
        for name in path:
            tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
        return tree

    return {collection: found for collection, tree in variables.items() if (found := below(tree))}
