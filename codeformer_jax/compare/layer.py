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

# Number of earlier outputs that may be the source of the layer's input.
_SOURCES = 4
# Sources are sought among so many calls before the layer's; older outputs are freed.
_RECENT = 12


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module call with its arguments.

    Attributes:
        network: see `Trace`.
        name: PyTorch's name of the module.
        place: name of the traced part of the output; '' is the whole.
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
        """First argument, None if it is not an array."""
        first = next(iter(self.args), None)
        return first if hasattr(first, "ndim") else None

    def apply(
        self,
        *,
        module: Any = None,
        params: Mapping[str, Any] | None = None,
        x: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the output, with parts of the call replaced.

        Args:
            module, params, x: replacements; None keeps the layer's own.
        """
        variables = self.variables if params is None else {**self.variables, "params": params}
        args = self.args if x is None else (x, *self.args[1:])
        mutable = [name for name in variables if name == "batch_stats"]
        output, _ = (module or self.module).apply(variables, *args, mutable=mutable, **self.kwargs)
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


class _Reached(Exception):
    """The pass has reached the layer: its call, its name and the place of the entry."""


def find_layer(rerun: Any, entry: Entry) -> Layer | None:
    """Computes a network up to a layer again and returns that layer.

    The pass is not compiled as a whole. Compiling would take longer than the pass, for each layer
    anew, while single operations compile once for all layers of their shape.

    Args:
        rerun: see `record.Rerun`.
        entry: entry of the trace that was made from it.

    Returns:
        The layer, or None for an entry that no module returned, or the whole network did.
    """
    variables = jax.tree.map(jnp.asarray, dict(rerun.variables))
    paths = _module_paths(variables["params"])
    names = layout.module_names(rerun.network, variables, paths)

    def observe(call):
        if call.path not in names:
            names.update(layout.module_names(rerun.network, variables, [call.path]))
        place = _place_of(rerun.network, names[call.path], call, entry.name)
        if place is not None and call.path:
            raise _Reached(call, names[call.path], place)
        del calls[:-_RECENT]
        return call.output

    mutable = [name for name in variables if name == "batch_stats"]
    try:
        with recorded_calls(observe) as calls:
            rerun.module.apply(variables, *rerun.args, mutable=mutable, **rerun.kwargs)
    except _Reached as reached:
        call, name, place = reached.args
    else:
        return None
    first = next(iter(call.args), None)
    given = rerun.args[0] if rerun.args else None
    earlier = (leaf for c in reversed(calls) for leaf in jax.tree.leaves(c.output)[:1])
    sources = [leaf for leaf in earlier if leaf.shape == getattr(first, "shape", None)]
    return Layer(
        network=rerun.network,
        name=name,
        place=place,
        module=call.module.clone(parent=None, name=None),
        variables=_below(variables, call.path),
        args=call.args,
        kwargs=call.kwargs,
        sources=tuple(sources[:_SOURCES]),
        reads_input=getattr(first, "shape", 0) == getattr(given, "shape", 1)
        and bool(jnp.array_equal(first, given)),
        others={name: _below(tree, call.path) for name, tree in rerun.others.items()},
    )


def _module_paths(params: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Returns the paths of all modules with parameters at or below them."""
    inner = {name: tree for name, tree in params.items() if isinstance(tree, Mapping)}
    found = (_module_paths(tree, (*above, name)) for name, tree in inner.items())
    return [above, *(path for paths in found for path in paths)]


def _place_of(network: str, module: str, call: Any, name: str) -> str | None:
    """Returns the place in a call's output that has an entry's name, or None."""
    labels = layout.labels(network, module, call.number, call.output)
    return next((place for label, place, _ in labels if label == name), None)


def _below(variables: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Returns the variables of the module at a path."""

    def below(tree):
        for name in path:
            tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
        return tree

    return {collection: found for collection, tree in variables.items() if (found := below(tree))}
