"""Traces of files: weights and inputs on disk, and a saved trace's computation from them."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from codeformer_jax import convert
from codeformer_jax.compare.inputs import StrPath, in_dtype, read_inputs
from codeformer_jax.compare.record import Rerun, describe_inputs, state_dict, trace
from codeformer_jax.compare.trace import Trace, TraceError, digest
from codeformer_jax.convert import files
from codeformer_jax.convert.conversion import network_from_tree, read_torch_file
from codeformer_jax.convert.networks import lookup
from codeformer_jax.convert.pth import STATE_DICT_KEYS
from codeformer_jax.nn.precision import products_in
from codeformer_jax.system import storage
from codeformer_jax.system.storage import Path

# Path of a training run -> an object like `Loaded`. This room knows no checkpoints.
LoadWorkdir = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network from a file.

    Attributes:
        network: registered name.
        module, variables: the Linen module and its variables.
        precision: precision of the products that it was trained with.
        others: {key: variables} of other state dicts of the file, such as the raw parameters beside
            their average.
    """

    network: str
    module: Any
    variables: Mapping[str, Any]
    precision: str = "default"
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def load_weights(
    path: StrPath,
    *,
    network: str | None = None,
    key: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    others: bool = False,
    load_workdir: LoadWorkdir | None = None,
) -> Loaded:
    """Loads a network from a model file, a PyTorch file, or a training run.

    Args:
        path: model file, `.pth` file, safetensors of PyTorch weights, or workdir.
        network: registered name; None recognises it.
        key: state dict of a PyTorch file, see `convert.select_state_dict`.
        overrides: hyperparameters that a PyTorch file does not show.
        others: loads the other state dicts of a PyTorch file too.
        load_workdir: `checkpoints.trained.load_trained`; without it workdirs are refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything wrong with the weights or the options.
    """
    path = storage.to_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        if load_workdir is None:
            raise ValueError(f"{path}: a folder; pass load_workdir to load a training run")
        trained = load_workdir(path)
        loaded = Loaded(trained.network, trained.module, trained.variables, trained.precision)
    elif _is_model_file(path):
        loaded = Loaded(*convert.load_model(path))
    else:
        return _load_torch(path, network, key, overrides or {}, others)
    if key is not None or overrides:
        raise ValueError(f"--key and --set are for PyTorch files; {path} knows its settings")
    if network not in (None, loaded.network):
        raise ValueError(f"{path}: holds the network '{loaded.network}', not '{network}'")
    return loaded


def trace_files(
    weights: StrPath,
    inputs: Sequence[StrPath],
    *,
    network: str | None = None,
    key: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    call: Mapping[str, Any] | None = None,
    gradients: bool = False,
    stride: int | None = None,
    dtype: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    load_workdir: LoadWorkdir | None = None,
) -> Trace:
    """Records what a network on disk computes of inputs on disk, see `record.trace`.

    Args:
        weights, network, key, overrides, load_workdir: see `load_weights`.
        inputs: see `read_inputs`.
        call: keyword arguments. Restorers get w=1 and discriminators train=False by default.
        gradients, stride: see `record.trace`.
        dtype: dtype of the computation; None is the module's own.
        precision: 'default', 'high' or 'highest'; None is that of the training run.
        device: platform such as 'cpu', or one device of it such as 'gpu:1'; None is JAX's choice.

    Returns:
        The trace, whose `source` names the files.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything wrong with the weights, the inputs or the options.
    """
    place, wide = find_device(device), dtype == "float64"
    with jax.default_device(place) if device else contextlib.nullcontext(), jax.enable_x64(wide):
        loaded = load_weights(
            weights, network=network, key=key, overrides=overrides, load_workdir=load_workdir
        )
        module = _in_dtype(loaded.module, dtype)
        args = read_inputs(inputs, loaded.network, module)
        variables = loaded.variables
        if wide:
            variables, args = jax.tree.map(lambda x: in_dtype(x, "float64"), (variables, args))
        kwargs = keywords(loaded.network, module, call or {})
        options = {"network": loaded.network, "gradients": gradients, "stride": stride}
        with products_in(precision or loaded.precision):
            try:
                found = trace(module, variables, *args, **options, **kwargs)
            except (ValueError, NotImplementedError) as error:  # Sizes or dtypes it cannot take.
                given = [f"--dtype {dtype}"] * bool(dtype) + [str(path) for path in inputs]
                raise ValueError(f"{', '.join(given)}: {error}") from error
    source = {
        "weights": str(storage.absolute(weights)),
        "network": loaded.network,
        "key": key,
        "overrides": dict(overrides or {}),
        "inputs": [str(storage.absolute(path)) for path in inputs],
        "dtype": dtype,
    }
    return dataclasses.replace(found, source=source)


def restored(saved: Trace, load_workdir: LoadWorkdir | None = None) -> Trace:
    """Returns a loaded trace with `rerun`, so that its layers can be computed again.

    Args:
        saved: a trace; one that has `rerun` is returned as it is.
        load_workdir: see `load_weights`.

    Raises:
        TraceError: its files are unknown, gone or changed.
    """
    if saved.rerun is not None:
        return saved
    source = saved.source
    if not source:
        raise TraceError("it does not name its files")
    try:
        loaded = load_weights(
            source["weights"],
            network=source["network"],
            key=source["key"],
            overrides=source["overrides"],
            others=True,
            load_workdir=load_workdir,
        )
        module = _in_dtype(loaded.module, source["dtype"])
        args = tuple(map(jnp.asarray, read_inputs(source["inputs"], loaded.network, module)))
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(f"its files cannot be loaded again: {error}") from error
    digests = [
        {k: v["digest"] for k, v in x.items()} for x in (describe_inputs(args), saved.inputs)
    ]
    if digests[0] != digests[1]:
        raise TraceError(f"{', '.join(source['inputs'])}: changed since the trace was made")
    if not _same_weights(loaded, saved):
        raise TraceError(f"{source['weights']}: changed since the trace was made")
    variables = loaded.variables
    if source["dtype"] == "float64":
        with jax.enable_x64(True):
            variables, args = jax.tree.map(lambda x: in_dtype(x, "float64"), (variables, args))
    rerun = Rerun(loaded.network, module, variables, args, saved.call, loaded.others)
    return dataclasses.replace(saved, rerun=rerun)


def find_device(text: str | None) -> jax.Device:
    """Returns the device that 'cpu', 'gpu:1' or the like names; the default device for None.

    Raises:
        ValueError: no such device on this machine.
    """
    if text is None:
        return jax.devices()[0]
    platform, _, index = text.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        here = ", ".join(f"{d.platform}:{d.id}" for d in jax.devices())
        raise ValueError(f"--device: no {text!r} on this machine; JAX has {here}") from error


def _is_model_file(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    try:
        with (
            storage.local_copy(path) as local,
            safetensors.safe_open(local, framework="numpy") as file,
        ):
            return (file.metadata() or {}).get("format") == files.FORMAT
    except safetensors.SafetensorError:
        return True  # `load_model` says what is wrong with it.


def _load_torch(path, network, key, overrides, others) -> Loaded:
    tree = read_torch_file(path)
    try:
        network, module, variables, _ = network_from_tree(
            tree, network=network, key=key, overrides=overrides
        )
    except convert.ConversionError as error:
        raise type(error)(f"{path}: {error}") from error
    found = {}
    for name in STATE_DICT_KEYS if others and isinstance(tree, dict) else ():
        with contextlib.suppress(convert.ConversionError):
            options = {"network": network, "key": name, "overrides": overrides}
            other = network_from_tree(tree, **options)[2]
            same = jax.tree.map(np.array_equal, other, variables)
            if not all(jax.tree.leaves(same)):
                found[name] = other
    return Loaded(network, module, variables, others=found)


def _in_dtype(module: Any, dtype: str | None) -> Any:
    if dtype is None:
        return module
    if not hasattr(module, "dtype"):
        raise ValueError(f"--dtype: a {type(module).__name__} has no dtype to choose")
    return module.clone(dtype=getattr(jnp, dtype))


def keywords(network: str, module: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of a network's call, with those that it needs.

    Args:
        network: registered name.
        module: its module.
        call: keyword arguments that are given.

    Raises:
        ValueError: a keyword that the network does not have.
    """
    spec = lookup(network)
    known = [
        name
        for name, parameter in inspect.signature(type(module).__call__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    if unknown := sorted(set(call) - set(known)):
        raise ValueError(
            f"--call: {network} has no keyword {', '.join(unknown)}; it has "
            f"{', '.join(known) or 'none'}"
        )
    default = {"w": 1.0} if spec.role == "restorer" else spec.inputs(module)[1]
    return {**default, **call}


def _same_weights(loaded: Loaded, saved: Trace) -> bool:
    table = state_dict(loaded.network, loaded.module, loaded.variables)
    return all(
        name in table and digest(table[name]) == described["digest"]
        for name, described in saved.weights.items()
    )
