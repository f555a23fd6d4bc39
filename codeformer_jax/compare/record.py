"""Traces of this package's networks and of any other Linen module."""

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from codeformer_jax.compare import layout
from codeformer_jax.compare.trace import Entry, Trace, digest
from codeformer_jax.convert import ConversionError, names, network_of
from codeformer_jax.nn.layers import sum_dtype
from codeformer_jax.nn.quantizer import squared_distances
from codeformer_jax.nn.recording import Call, recorded_calls

# Larger maps [b, c, h, w] are reduced to about this many values.
KEPT_VALUES = 1 << 18
OBJECTIVE = "mean of the squares of the first output"


@dataclasses.dataclass(frozen=True)
class Rerun:
    """What a trace was made from, so that single layers can be computed again.

    Attributes:
        network: see `Trace`.
        module, variables, args, kwargs: the call.
        others: {name: variables} of other weights that the file has, such as an average's.
    """

    network: str
    module: Any
    variables: Mapping[str, Any]
    args: tuple
    kwargs: Mapping[str, Any]
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def trace(
    module: Any,
    variables: Mapping[str, Any],
    *args: ArrayLike,
    network: str | None = None,
    gradients: bool = False,
    stride: int | None = None,
    **kwargs: Any,
) -> Trace:
    """Records every module call of `module.apply(variables, *args, **kwargs)`.

    Names and layout are PyTorch's, so that the trace meets one of `trace_torch.py`. The pass is
    compiled, and maps are reduced on the device: a trace needs little more memory than the pass.

    Args:
        module: Linen module.
        variables: its variables. Running statistics are recorded as they are after the pass.
        args: arrays.
        network: name that `convert` uses, which decides the names; default that of the module's
            class. Any other text gives names by the mechanical rule, `blocks_3` -> `blocks.3`.
        gradients: also records the gradients of the mean square of the first output, by activation
            and by parameter.
        stride: keeps every `stride`-th row and column of a map; 1 keeps all. By default maps of
            more than 2^18 values are reduced to at most that many.
        kwargs: further arguments, which are constants of the compiled pass.

    Returns:
        The trace: one entry per array that a module returned, in execution order.
    """
    network = network or _network_name(module)
    args = tuple(jnp.asarray(arg) for arg in args)
    recorder = _Recorder(network, module, kwargs, stride)
    take = recorder.with_gradients if gradients else recorder.forward
    arrays, trees = jax.device_get(jax.jit(take)(variables, args))
    entries = [_entry(static, array) for static, array in zip(recorder.static, arrays, strict=True)]
    for kind, tree in trees.items():
        table = torch_table(network, tree)
        entries += [Entry.whole(kind, name, array) for name, array in table.items()]
    return Trace(
        entries=tuple(entries),
        made_by=made_by(module),
        network=network,
        inputs=describe_inputs(args),
        weights=describe_weights(state_dict(network, module, variables)),
        call={name: value for name, value in kwargs.items() if _is_plain(value)},
        objective=OBJECTIVE if gradients else "",
        rerun=Rerun(network, module, variables, args, kwargs),
    )


class _Recorder:
    """Functions to compile.

    Tracing them fills `static` with the fields of each entry that are known before the run.
    """

    def __init__(self, network, module, kwargs, stride):
        self.network, self.module = network, module
        self.kwargs, self.stride = kwargs, stride
        self.static: list[dict[str, Any]] = []

    def forward(self, variables, args):
        """Returns reduced arrays in execution order, and {kind: variables}."""
        calls, margins, trees = self._apply(variables, args)
        return self._record(variables, calls, margins), trees

    def with_gradients(self, variables, args):
        """Returns what `forward` does, with gradients.

        Adds zeros to every output: the gradient of the zeros is the output's gradient.
        """
        shapes = jax.eval_shape(lambda: self._floats(self._apply(variables, args)[0]))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        places = {}

        def objective(params, zeros):
            def add(call):
                leaves, tree = jax.tree.flatten(call.output)
                added = iter(zeros[str(call.key)])
                return tree.unflatten([x + next(added) if _is_float(x) else x for x in leaves])

            changed = {**variables, "params": params}
            calls, margins, trees = self._apply(changed, args, add)
            arrays = self._record(changed, calls, margins)
            for call, name, index, leaf in self._named(changed, calls):
                if _is_float(leaf):
                    before = jax.tree.leaves(call.output)[:index]
                    places[name] = str(call.key), sum(map(_is_float, before)), call
            first = next(x for x in jax.tree.leaves(calls[-1].output) if _is_float(x))
            loss = jnp.mean(first.astype(sum_dtype(first.dtype)) ** 2)
            return loss, (arrays, trees)

        grad = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (loss, (arrays, trees)), (by_param, by_zero) = grad(variables["params"], zeros)
        self.static.append({"kind": "loss", "name": "objective"})
        arrays.append(self._reduce(loss, ()))
        for name, (key, index, call) in reversed(places.items()):
            arrays.append(self._array("activation_gradient", name, by_zero[key][index], call))
        return arrays, {**trees, "gradient": {"params": by_param}}

    def _apply(self, variables, args, change=lambda call: call.output):
        """Returns the calls, {call: margins of its codes} and the updated running statistics."""
        mutable = [name for name in variables if name == "batch_stats"]
        margins = {}

        def observed(call):
            margins[call.key] = _margins(call)
            return change(call)

        with recorded_calls(observed) as calls:
            _, updated = self.module.apply(variables, *args, mutable=mutable, **self.kwargs)
        return calls, margins, {"buffer": dict(updated)} if updated else {}

    def _floats(self, calls):
        return {str(c.key): list(filter(_is_float, jax.tree.leaves(c.output))) for c in calls}

    def _named(self, variables, calls) -> Iterator[tuple[Call, str, int, Any]]:
        """Yields call, name, position among the leaves and value of each array that is kept."""
        named = layout.module_names(self.network, variables, {call.path for call in calls})
        for call in calls:
            leaves = jax.tree.leaves(call.output)
            labels = layout.labels(self.network, named[call.path], call.number, call.output)
            for name, _, index in labels:
                yield call, name, index, leaves[index]

    def _record(self, variables, calls, margins):
        arrays, scores = [], {}
        for call, name, _, leaf in self._named(variables, calls):
            if leaf is getattr(call.output, "logits", None) and leaf.ndim == 3:
                scores[call.key] = name
        for call, name, _, leaf in self._named(variables, calls):
            code = leaf is getattr(call.output, "indices", None)
            found = {"argmax_of": scores.get(call.key, "")} if code else {}
            kind = "code" if code else "activation"
            arrays.append(self._array(kind, name, leaf, call, **found))
            if code and margins[call.key] is not None:
                arrays.append(self._array("margin", name, margins[call.key], call))
        return arrays

    def _array(self, kind, name, array, call, **fields):
        """Appends what is known of an entry to `static` and returns its reduced array."""
        axes = layout.torch_axes(self.network, name, array.ndim)
        shape = tuple(array.shape[axis] for axis in axes)
        layer = describe(call.module) if kind == "activation" else ""
        stride = self._stride_of(shape) if _is_float(array) else 1
        self.static.append(
            {
                "kind": kind,
                "name": name,
                "shape": shape,
                "layer": layer,
                "dtype": str(array.dtype),
                "stride": stride,
                **fields,
            }
        )
        return self._reduce(array, axes, stride)

    def _stride_of(self, shape):
        if len(shape) != 4:
            return 1
        if self.stride is not None:
            return self.stride
        excess = math.prod(shape) / KEPT_VALUES
        return 1 if excess <= 1 else 2 ** math.ceil(math.log(excess, 4))

    @staticmethod
    def _reduce(array, axes, stride=1):
        """Returns every `stride`-th row and column, the statistics of all and their digest."""
        kept = array[:, ::stride, ::stride] if stride > 1 else array
        if not _is_float(array):
            return {"array": kept.transpose(axes)}
        wide = array.astype(sum_dtype(array.dtype))
        finite = jnp.isfinite(wide)
        values = jnp.where(finite, wide, 0)
        mean = jnp.mean(values)
        return {
            "array": kept.transpose(axes).astype(wide.dtype),
            "mean": mean,
            "std": jnp.sqrt(jnp.mean(jnp.square(values - mean))),
            "min": jnp.min(values),
            "max": jnp.max(values),
            "nonfinite": jnp.sum(~finite),
            "digest": _digest(wide, axes),
        }


def _digest(array: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns both sums of `trace.digest` for the transposed array."""
    bits = jax.lax.bitcast_convert_type(array.astype(jnp.float32), jnp.uint32)
    index, step = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(axes):
        index += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(step)
        step *= array.shape[axis]
    weights = 2 * index + jnp.uint32(1)
    products = bits * weights
    return tuple(jnp.sum(x, dtype=jnp.uint32) for x in (products, products * weights))


def _entry(static: Mapping[str, Any], values: Mapping[str, Any]) -> Entry:
    """Returns the entry of one array that came from the device."""
    array = np.asarray(values["array"])
    if "digest" not in values:
        known = {name: value for name, value in static.items() if name in ("layer", "argmax_of")}
        return Entry.whole(static["kind"], static["name"], array, **known)
    first, second = (int(part) for part in values["digest"])
    numbers = {name: values[name].item() for name in ("mean", "std", "min", "max", "nonfinite")}
    return Entry(
        **{"shape": array.shape, **static},
        array=array,
        digest=f"{first:08x}{second:08x}",
        **numbers,
    )


def _margins(call: Call) -> jax.Array | None:
    """Returns the lead of each code over the second best, or None without a codebook.

    A lead is a difference of logits, or of distances divided by the second.
    """
    output = call.output
    if getattr(output, "indices", None) is None:
        return None
    if getattr(output, "logits", None) is not None:
        best, second = jnp.moveaxis(jax.lax.top_k(output.logits, 2)[0], -1, 0)
        return (best - second).reshape(output.indices.shape)
    if not hasattr(call.module, "codebook"):
        return None
    latents = call.args[0].reshape(-1, call.args[0].shape[-1])
    codebook = call.module.codebook()
    distances = squared_distances(latents.astype(codebook.dtype), codebook)
    best, second = jnp.moveaxis(-jax.lax.top_k(-distances, 2)[0], -1, 0)
    return ((second - best) / jnp.maximum(jnp.abs(second), 1e-30)).reshape(output.indices.shape)


def describe(module: Any) -> str:
    """Returns a module's class with its plain fields, such as 'GroupNorm(groups=32, ...)'."""
    fields = [
        f"{field.name}={value}"
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
        and _is_plain(value := getattr(module, field.name))
        and value is not None
    ]
    return f"{type(module).__name__}({', '.join(fields)})"


def made_by(module: Any = None) -> dict[str, str]:
    """Returns framework, versions, device and precision of this process.

    Args:
        module: its field `dtype` is the dtype of the computation; default float32.
    """
    device = jax.config.jax_default_device or jax.devices()[0]
    return {
        "framework": f"jax {jax.__version__}",
        "package": f"codeformer-jax {importlib.metadata.version('codeformer-jax')}",
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        "dtype": jnp.dtype(getattr(module, "dtype", None) or jnp.float32).name,
        "precision": str(jax.config.jax_default_matmul_precision or "default"),
    }


def describe_inputs(args: tuple) -> dict[str, dict[str, Any]]:
    """Returns {position: shape, dtype and digest} of arrays, images as PyTorch takes them."""
    found = {}
    for position, arg in enumerate(args):
        array = np.asarray(arg)
        array = array.transpose(layout.torch_axes("", "", array.ndim))
        found[str(position)] = _described(array)
    return found


def describe_weights(table: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Returns {name: shape, dtype and digest} of a state dict."""
    return {name: _described(array) for name, array in table.items()}


def torch_table(network: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns {PyTorch name: array} of variables, or of gradients, which need not be complete.

    Args:
        network: name in `convert.NETWORKS`, or any other text for names by rule.
        variables: collections of the network.
    """
    spec = layout.spec_of(network)
    table = names.dump_table(variables, spec.torch_name if spec else str)
    return {n: array for n, array in table.items() if not n.endswith("num_batches_tracked")}


def state_dict(network: str, module: Any, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns {PyTorch name: array} of a network's variables and of the buffers beside them.

    Args:
        network: name in `convert.NETWORKS`, or any other text for names by rule.
        module: the Linen module.
        variables: its variables; collections without PyTorch names are left out.
    """
    known = {name: tree for name, tree in variables.items() if name in names.COLLECTIONS}
    spec = layout.spec_of(network)
    return torch_table(network, known) | (dict(spec.buffers(known, module)) if spec else {})


def _described(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "digest": digest(array)}


def _network_name(module: Any) -> str:
    try:
        return network_of(module)
    except ConversionError:
        return type(module).__name__


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | bool | None)
