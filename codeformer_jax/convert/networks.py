"""`from_torch` and `to_torch`: the networks, their modules and how each is recognised."""

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.convert import hyperparameters, names, taming
from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.nn import (
    GPT,
    LPIPS,
    VQGAN,
    VQVAE,
    CodeFormer,
    PatchDiscriminator,
    PixelCNN,
    TamingVQGAN,
)
from codeformer_jax.ops.random import make_key

Module = VQGAN | VQVAE | CodeFormer | PatchDiscriminator | LPIPS | TamingVQGAN | GPT | PixelCNN
Table = Mapping[str, np.ndarray]

# What the published networks of this kind have in common, with any codebook and fusion.
_BACKBONE = ("nf", "ch_mult", "res_blocks", "emb_dim")
# Fields of Linen, of gradients and of a codebook's start say nothing of what a file holds.
_NOT_STORED = ("parent", "name", "remat", "stop_gradients", "codebook_init")


@dataclasses.dataclass(frozen=True)
class _Network:
    """What conversion knows of a network.

    Attributes:
        module: its class.
        inputs: (args, kwargs) for `init`, as shapes, of a module.
        marks: PyTorch names start with one of each group; none where no such files are known.
        read: fields read off names and shapes, given the overrides.
        rename: other packages' names -> the ones converted here, given the overrides.
        key: where files keep such a table; None at the top.
        hidden: fields that no name or shape shows, given those that are known.
        published: fields that a network with the published values of the hidden ones shares with
            the class's defaults.
        read_buffers: fields read off values that are no parameters, before `rename` drops them.
        buffers: what a strict load in PyTorch needs besides, of the variables and the module.
    """

    module: type
    inputs: Callable[[Any], tuple[tuple, dict]]
    marks: tuple[tuple[str, ...], ...]
    read: Callable[..., dict[str, Any]] = lambda shapes, given: {}
    rename: Callable[[Table, Mapping[str, Any]], Table] = lambda table, given: table
    key: str | None = "params_ema"
    hidden: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda fields: ()
    published: tuple[str, ...] = ()
    read_buffers: Callable[[Table], dict[str, Any]] = lambda table: {}
    buffers: Callable[[Mapping[str, Any], Any], Table] = lambda variables, module: {}


def _image(side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def _map(module: PixelCNN) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    shape = (1, module.map_size, module.map_size, module.channels)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32) if module.classes else None
    return jax.ShapeDtypeStruct(shape, jnp.int32), labels


def _rename_lpips(table: Table, _given: Mapping[str, Any]) -> Table:
    """torchvision's network and `lpips` heads, or the `lpips` package's own file, as one naming."""
    renamed = {}
    for name, array in table.items():
        # The package lists its heads twice and keeps its input scaling as a buffer; torchvision's
        # file has a classifier, which LPIPS does not use.
        if name.startswith(("lins.", "scaling_layer.", "classifier.")):
            continue
        renamed[re.sub(r"^net\.slice\d\.", "features.", name)] = array
    return renamed


_NETWORKS = {
    "codeformer": _Network(
        CodeFormer,
        lambda module: ((_image(module.image_size),), {"w": 0.0}),
        (("position_emb", "ft_layers.", "idx_pred_layer.", "fuse_convs_dict."), ("encoder.",)),
        hyperparameters.read_codeformer,
        hidden=lambda fields: ("norm_groups", "n_head"),
        published=(*_BACKBONE, "dim_embd", "n_layers"),
    ),
    "vqgan": _Network(
        VQGAN,
        lambda module: ((_image(module.image_size),), {}),
        (("encoder.blocks.",), ("generator.blocks.",), ("quantize.",)),
        hyperparameters.read_vqgan,
        hidden=lambda fields: ("image_size", "norm_groups"),
        published=_BACKBONE,
    ),
    "vqvae": _Network(VQVAE, lambda module: ((_image(module.image_size),), {}), marks=()),
    "pixelcnn": _Network(PixelCNN, lambda module: (_map(module), {}), marks=()),
    "discriminator": _Network(
        PatchDiscriminator,
        lambda module: ((_image(module.min_size()),), {"train": False}),
        (("main.0.",), ("main.2.",)),
        hyperparameters.read_discriminator,
        key="params_d",
    ),
    "lpips": _Network(
        LPIPS,
        lambda module: ((_image(64), _image(64)), {}),
        (("features.0.",), ("lin0.",)),
        hyperparameters.read_lpips,
        _rename_lpips,
        key=None,
    ),
    # Before the autoencoder, which such a checkpoint holds, too.
    "taming_gpt": _Network(
        GPT,
        lambda module: ((jax.ShapeDtypeStruct((1, 1), jnp.int32),), {}),
        (("tok_emb.",), ("blocks.0.attn.",), ("ln_f.",)),
        taming.read_gpt,
        taming.rename_gpt,
        key="state_dict",
        read_buffers=taming.read_gpt_masks,
        buffers=lambda variables, module: taming.gpt_masks(
            variables, module.n_unmasked if module else 0
        ),
        hidden=taming.hidden_gpt,
        published=("n_layer", "n_embd"),
    ),
    "taming_vqgan": _Network(
        TamingVQGAN,
        lambda module: ((_image(module.image_size),), {}),
        (("encoder.down.",), ("decoder.up.",), ("quantize.",), ("quant_conv.",)),
        taming.read_vqgan,
        taming.rename_vqgan,
        key="state_dict",
        hidden=lambda fields: ("image_size", "norm_groups"),
        published=("nf", "res_blocks"),
    ),
}
NETWORKS = tuple(_NETWORKS)


def from_torch(
    network: str, state_dict: Mapping[str, Any], **overrides: Any
) -> tuple[Module, dict[str, Any]]:
    """A PyTorch state dict {name: array or CPU tensor} as (module, variables).

    Hyperparameters are read off names and shapes where they show; the others (n_head, beta,
    norm_groups, a VQGAN's image_size, ...) have their published defaults. `overrides` are fields
    of the module and go before both.

    Raises:
        ConversionError: unknown network or field, impossible sizes, or names that are missing,
            left over or of another shape; all of them are listed.
    """
    table, fields = _read(network, state_dict, overrides)
    module = build_module(network, fields)
    variables = names.load_table(table, expected_variables(network, module), network)
    return module, jax.tree.map(jnp.asarray, variables)


@dataclasses.dataclass(frozen=True)
class Unseen:
    """Fields that change what a network computes and that a PyTorch table does not show.

    Attributes:
        fields: those that were not given, as `from_torch` takes them.
        published: whether the sizes are those of the published networks, whose values they are.
    """

    fields: dict[str, Any]
    published: bool


def unseen_fields(network: str, state_dict: Mapping[str, Any], given: Mapping[str, Any]) -> Unseen:
    """Returns the fields that `from_torch(network, state_dict, **given)` assumes.

    Raises:
        ConversionError: as `from_torch`, where the fields cannot be read.
    """
    spec = _lookup(network)
    _, fields = _read(network, state_dict, given)
    default = spec.module()
    hidden = {n: fields.get(n, getattr(default, n)) for n in spec.hidden(fields) if n not in given}
    same = (fields.get(n, getattr(default, n)) == getattr(default, n) for n in spec.published)
    return Unseen(hidden, all(same))


def _read(
    network: str, state_dict: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Table, dict[str, Any]]:
    """Returns a table in the names that are converted, and the fields, read off or given."""
    spec = _lookup(network)
    table = {name: np.asarray(array) for name, array in state_dict.items()}
    table = _without_wrapper(table)
    fields = spec.read_buffers(table)
    table = spec.rename(table, given)
    _check_fields(spec.module, network, given)
    shapes = {name: tuple(array.shape) for name, array in table.items()}
    return table, fields | spec.read(shapes, given) | given


def to_torch(
    network: str, variables: Mapping[str, Any], module: Module | None = None
) -> dict[str, np.ndarray]:
    """Variables as {PyTorch name: array}; such a dict loads strictly in PyTorch.

    `module` matters where PyTorch keeps settings among the arrays: a GPT's `n_unmasked`.

    Raises:
        ConversionError: unknown network, variables without PyTorch names, or variables without
            the batch statistics that a strict load needs.
    """
    spec = _lookup(network)
    if "params" not in variables:
        raise ConversionError(
            f"variables have the collections {sorted(variables)}; expected 'params' among them"
        )
    if network == "discriminator" and "batch_stats" not in variables:
        raise ConversionError("a discriminator's variables need the collection 'batch_stats' too")
    return names.dump_table(variables) | spec.buffers(variables, module)


def detect_network(state_dict: Mapping[str, Any]) -> str:
    """The network that a PyTorch table belongs to, by its names.

    Raises:
        ConversionError: no known network; the message shows the first names.
    """
    for network, spec in _NETWORKS.items():
        table = spec.rename(_without_wrapper(state_dict), {})
        found = [any(name.startswith(group) for name in table) for group in spec.marks]
        if found and all(found):
            return network
    first = ", ".join(list(state_dict)[:5])
    raise ConversionError(
        f"cannot tell the network from {len(state_dict)} names ({first}, ...); "
        f"say which of {', '.join(NETWORKS)} it is"
    )


def torch_key(network: str) -> str | None:
    """Where published files keep this network's table ('params_ema', ...); None: at the top."""
    return _lookup(network).key


def build_module(network: str, fields: Mapping[str, Any]) -> Module:
    """The network's module with these fields; dtypes may be names such as 'bfloat16'.

    Raises:
        ConversionError: unknown fields, or values that the module refuses.
    """
    spec = _lookup(network)
    _check_fields(spec.module, network, fields)
    fields = dict(fields)
    if "dtype" in fields:
        fields["dtype"] = _scalar_type(fields["dtype"])
    for field in dataclasses.fields(spec.module):
        # Someone who writes beta=1 means 1.0.
        accepted = typing.get_args(field.type) or (field.type,)
        if float in accepted and type(fields.get(field.name)) is int:
            fields[field.name] = float(fields[field.name])
    try:
        return spec.module(**fields)
    except (TypeError, ValueError) as error:
        raise ConversionError(
            f"no network '{network}' can be built with these hyperparameters: {error}"
        ) from error


def module_fields(module: Module) -> dict[str, Any]:
    """The module's hyperparameters as JSON-ready values, dtype by name."""
    fields = {name: getattr(module, name) for name in _field_names(type(module))}
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"]).name
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def network_of(module: Module) -> str:
    """The name of the network that `module` is.

    Raises:
        ConversionError: of none.
    """
    for network, spec in _NETWORKS.items():
        if type(module) is spec.module:
            return network
    raise ConversionError(
        f"a {type(module).__name__} is no network that can be stored: {', '.join(NETWORKS)} are"
    )


def expected_variables(network: str, module: Module) -> dict[str, Any]:
    """Shapes and dtypes of the module's variables; nothing is computed."""
    args, kwargs = _lookup(network).inputs(module)
    # Parameters are float32 whatever the computation is in.
    module = module.clone(dtype=jnp.float32)

    def init(key, *args):
        return module.init(key, *args, **kwargs)

    return jax.eval_shape(init, make_key(0), *args)


def check_module(network: str, module: Any) -> None:
    """Raises ConversionError where `module` is not of the network's class."""
    expected = _lookup(network).module
    if type(module) is not expected:
        raise ConversionError(
            f"network '{network}' is a {expected.__name__}; got a {type(module).__name__}"
        )


def _lookup(network: str) -> _Network:
    if network not in _NETWORKS:
        raise ConversionError(f"unknown network {network!r}; expected one of {', '.join(NETWORKS)}")
    return _NETWORKS[network]


def _field_names(module_class: type) -> list[str]:
    return [f.name for f in dataclasses.fields(module_class) if f.name not in _NOT_STORED]


def _check_fields(module_class: type, network: str, fields: Mapping[str, Any]) -> None:
    known = _field_names(module_class)
    if unknown := sorted(set(fields) - set(known)):
        raise ConversionError(
            f"network '{network}' has no hyperparameter {', '.join(unknown)}; "
            f"it has {', '.join(known)}"
        )


def _scalar_type(dtype: Any) -> Any:
    # jnp.float32 and np.dtype('float32') are equal but hash differently; modules keep the former.
    try:
        return getattr(jnp, jnp.dtype(dtype).name)
    except TypeError:
        raise ConversionError(f"dtype is {dtype!r}; expected a name such as 'float32'") from None


def _without_wrapper(table: Table) -> Table:
    """Returns the table without the names that training puts around a network.

    torch.compile adds `_orig_mod.` wherever it was called, DataParallel and AveragedModel `module.`
    before all names; the latter keeps `n_averaged` besides.
    """
    parts = {name: [p for p in name.split(".") if p != "_orig_mod"] or [name] for name in table}
    parts = {name: part for name, part in parts.items() if part[-1] != "n_averaged"}
    while parts and all(len(part) > 1 and part[0] == "module" for part in parts.values()):
        parts = {name: part[1:] for name, part in parts.items()}
    plain = {".".join(part): table[name] for name, part in parts.items()}
    if len(plain) < len(parts):
        raise ConversionError(
            "two tensors have the same name once '_orig_mod.' (torch.compile) is removed; save the "
            "state dict of one model"
        )
    return plain
