"""Registry of networks: how each is built, stored and recognised among PyTorch's.

An entry is all that the rest of the package knows of a network. One of your own, in a module that
`config.plugins` names, is registered the same way:

    from codeformer_jax.convert import NETWORKS, Network, image_like

    NETWORKS.register("deblur")(
        Network(
            Deblur,  # a Linen module whose hyperparameters are fields with defaults
            inputs=lambda module: ((image_like(64),), {}),
            marks=(("stem.",), ("body.0.",)),
            read=lambda shapes, given: {"width": shapes["stem.weight"][0]},
        )
    )

From then on `save_model`, `load_model`, `from_torch`, `to_torch`, `detect_network` and
`codeformer-jax convert --plugin=my_module ...` know it. Linen's names become PyTorch's by rule
(`names.py`): `body_0/conv/kernel` is `body.0.conv.weight`.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.convert import hyperparameters, taming
from codeformer_jax.convert.errors import ConversionError
from codeformer_jax.nn import (
    GPT,
    VQGAN,
    VQVAE,
    CodeFormer,
    PatchDiscriminator,
    PixelCNN,
    TamingVQGAN,
)
from codeformer_jax.system.keys import make_key
from codeformer_jax.system.registry import Registry

Module = Any  # A Linen module: only nn/ imports flax.linen.
Table = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
Fields = Mapping[str, Any]

# Fields of Linen, of gradients and of a codebook's start do not describe what a file holds.
_NOT_STORED = ("parent", "name", "remat", "stop_gradients", "codebook_init")


@dataclasses.dataclass(frozen=True)
class Network:
    """Everything that the package needs to know of a kind of network.

    Only `module` and `inputs` are required. A network without `marks` has no known PyTorch files.

    Attributes:
        module: class of the Linen module; its fields are the hyperparameters.
        inputs: module -> (args, kwargs) of `init`, with `jax.ShapeDtypeStruct` for arrays.
        role: what the rest of the package may do with it:
            'autoencoder': `apply(variables, images)` returns `.image` and `.indices`; methods
                `encode` and `decode`; `codebook_size`, `downsampling`, `image_size`. Evaluated by
                its reconstructions; its codes can be learned.
            'restorer': `apply(variables, images, w=..., adain=...)`, images in [-1, 1] and `w` [b],
                returns `.image`; `image_size`. With codes also `codebook_size`, `downsampling`,
                `.logits` and `.indices`.
            'prior': a distribution over maps of codes or pixels.
            '': none of these, such as a loss.
        code_fields: an autoencoder's fields on which its codes depend, for fingerprints; () if they
            depend on every field and parameter.
        marks: groups of prefixes; a state dict is this network's if it has names of each group.
        rename: (state dict, given fields) -> state dict with the names that are converted; drops
            entries of training and translates other packages' names.
        read: (shapes by name, given fields) -> fields that names and shapes show.
        read_buffers: state dict before `rename` -> fields that the values of buffers show.
        buffers: (variables, module or None) -> buffers that a strict load in PyTorch needs.
        torch_name: name made by rule -> PyTorch's name, where the two differ.
        collections: collections of variables, besides 'params', that a strict load needs.
        key: under which files keep the state dict; None where it is the whole file.
        hidden: known fields -> names of the fields that neither names nor shapes show.
        published: fields that identify a published size: if they have their defaults, so have the
            hidden ones.
        torch_outputs: {pattern of PyTorch module names: {place in our output: place in PyTorch's}}
            for modules whose output has another structure in PyTorch, such as a tuple. 'output' is
            the network itself. A place is 'indices', '0' or '2.perplexity'; '' is the whole output.
            Unlisted places are dropped.
        torch_sequence_first: pattern of the modules whose tokens are [n, b, d] in PyTorch.
    """

    module: type
    inputs: Callable[[Module], tuple[tuple, dict]]
    role: typing.Literal["autoencoder", "restorer", "prior", ""] = ""
    code_fields: tuple[str, ...] = ()
    marks: tuple[tuple[str, ...], ...] = ()
    rename: Callable[[Table, Fields], Table] = lambda table, given: table
    read: Callable[[Shapes, Fields], dict[str, Any]] = lambda shapes, given: {}
    read_buffers: Callable[[Table], dict[str, Any]] = lambda table: {}
    buffers: Callable[[Mapping[str, Any], Any], Table] = lambda variables, module: {}
    torch_name: Callable[[str], str] = lambda name: name
    collections: tuple[str, ...] = ()
    key: str | None = "params_ema"
    hidden: Callable[[Fields], tuple[str, ...]] = lambda fields: ()
    published: tuple[str, ...] = ()
    torch_outputs: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    torch_sequence_first: str = "(?!)"  # Matches nothing.


NETWORKS: Registry[Network] = Registry("network")


def lookup(network: str) -> Network:
    """Returns the entry of a name.

    Raises:
        ConversionError: no network is registered under the name.
    """
    if network not in NETWORKS:
        raise ConversionError(
            f"unknown network {network!r}; expected one of {', '.join(NETWORKS)}. A module of your "
            "own that registers it must be imported first: name it in config.plugins, or as "
            "--plugin of a `codeformer-jax` command"
        )
    return NETWORKS[network]


def network_of(module: Module) -> str:
    """Returns the name under which a module's class is registered.

    Raises:
        ConversionError: the class is not registered.
    """
    for network in NETWORKS:
        if type(module) is NETWORKS[network].module:
            return network
    raise ConversionError(
        f"{type(module).__name__} is not a registered network; expected one of "
        f"{', '.join(NETWORKS)}, or register it (codeformer_jax.convert.NETWORKS)"
    )


def role_of(module: Module) -> str:
    """Returns the role of a module's network, or of the class that it is derived from, or ''."""
    roles = {NETWORKS[network].module: NETWORKS[network].role for network in NETWORKS}
    return next((roles[kind] for kind in type(module).__mro__ if kind in roles), "")


def networks_of_role(*roles: str) -> tuple[str, ...]:
    """Returns the names of the networks that have one of the roles."""
    return tuple(network for network in NETWORKS if NETWORKS[network].role in roles)


def image_like(side: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of one square image, float32 [1, side, side, 3], for `Network.inputs`."""
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


def build_module(network: str, fields: Fields) -> Module:
    """Builds a network's module.

    Args:
        network: registered name.
        fields: hyperparameters, also as JSON holds them: lists for tuples, dtypes by name.

    Raises:
        ConversionError: an unknown network or field, or a value that the module rejects.
    """
    spec = lookup(network)
    check_fields(network, fields)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    if "dtype" in fields:
        fields["dtype"] = _scalar_type(fields["dtype"])
    for field in dataclasses.fields(spec.module):
        # beta=1 means 1.0.
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
    """Returns a module's hyperparameters as JSON values: lists for tuples, the dtype by name."""
    fields = {name: getattr(module, name) for name in _field_names(type(module))}
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"]).name
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


@functools.lru_cache(maxsize=64)
def expected_variables(network: str, module: Module) -> dict[str, Any]:
    """Returns the shapes and dtypes of a module's variables, without computing them.

    Args:
        network: registered name.
        module: an instance of the network's class; parameters are float32 whatever its dtype.
    """
    args, kwargs = lookup(network).inputs(module)
    if "dtype" in _field_names(type(module)):
        module = module.clone(dtype=jnp.float32)

    def init(key, *args):
        return module.init(key, *args, **kwargs)

    key = jax.eval_shape(lambda: make_key(0))  # Compiles nothing.
    return jax.eval_shape(init, key, *args)


def check_module(network: str, module: Module) -> None:
    """Raises ConversionError if `module` is not of the network's class."""
    expected = lookup(network).module
    if type(module) is not expected:
        raise ConversionError(
            f"network '{network}' is a {expected.__name__}; got a {type(module).__name__}"
        )


def check_fields(network: str, fields: Fields) -> None:
    """Raises ConversionError if the network's module has no such hyperparameters."""
    known = _field_names(lookup(network).module)
    if unknown := sorted(set(fields) - set(known)):
        raise ConversionError(
            f"network '{network}' has no hyperparameter {', '.join(unknown)}; "
            f"it has {', '.join(known)}"
        )


def _field_names(module_class: type) -> list[str]:
    return [f.name for f in dataclasses.fields(module_class) if f.name not in _NOT_STORED]


def _scalar_type(dtype: Any) -> Any:
    # jnp.float32 and np.dtype('float32') are equal but hash differently; modules keep the former.
    try:
        return getattr(jnp, jnp.dtype(dtype).name)
    except TypeError:
        raise ConversionError(f"dtype is {dtype!r}; expected a name such as 'float32'") from None


def _map_like(module: PixelCNN) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    shape = (1, module.map_size, module.map_size, module.channels)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32) if module.classes else None
    return jax.ShapeDtypeStruct(shape, jnp.int32), labels


# What the published networks of this kind have in common, with any codebook and fusion.
_BACKBONE = ("nf", "ch_mult", "res_blocks", "emb_dim")
# Their order enters the fingerprints of files that exist.
_CODE_FIELDS = (
    "image_size",
    "nf",
    "ch_mult",
    "res_blocks",
    "attn_resolutions",
    "codebook_size",
    "emb_dim",
    "norm_groups",
    "quantizer",
)

NETWORKS.register("codeformer")(
    Network(
        CodeFormer,
        lambda module: ((image_like(module.image_size),), {"w": 0.0}),
        role="restorer",
        marks=(
            ("position_emb", "ft_layers.", "idx_pred_layer.", "fuse_convs_dict."),
            ("encoder.",),
        ),
        read=hyperparameters.read_codeformer,
        hidden=lambda fields: ("norm_groups", "n_head"),
        published=(*_BACKBONE, "dim_embd", "n_layers"),
        torch_outputs={
            "output": {"image": "0", "logits": "1", "latents": "2", "indices": "codes"},
            "encoder": {"0": ""},
            r"ft_layers\.\d+\.self_attn": {"": "0"},
        },
        torch_sequence_first="feat_emb|ft_layers|idx_pred_layer",
    )
)
NETWORKS.register("vqgan")(
    Network(
        VQGAN,
        lambda module: ((image_like(module.image_size),), {}),
        role="autoencoder",
        code_fields=_CODE_FIELDS,
        marks=(("encoder.blocks.",), ("generator.blocks.",), ("quantize.",)),
        read=hyperparameters.read_vqgan,
        hidden=lambda fields: ("image_size", "norm_groups"),
        published=_BACKBONE,
        torch_outputs={
            "output": {"image": "0", "codebook_loss": "1"},
            "encoder": {"0": ""},
            "quantize": {
                "latents": "0",
                "loss": "1",
                "indices": "2.min_encoding_indices",
                "perplexity": "2.perplexity",
                "mean_distance": "2.mean_distance",
            },
        },
    )
)
NETWORKS.register("vqvae")(
    Network(
        VQVAE,
        lambda module: ((image_like(module.image_size),), {}),
        role="autoencoder",
        code_fields=("image_size", "hidden", "res_blocks", "codebook_size", "emb_dim"),
    )
)
NETWORKS.register("pixelcnn")(
    Network(PixelCNN, lambda module: (_map_like(module), {}), role="prior")
)
NETWORKS.register("discriminator")(
    Network(
        PatchDiscriminator,
        lambda module: ((image_like(module.min_size()),), {"train": False}),
        marks=(("main.0.",), ("main.2.",)),
        read=hyperparameters.read_discriminator,
        collections=("batch_stats",),
        key="params_d",
    )
)
# Precedes the autoencoder, which a transformer's checkpoint also holds.
NETWORKS.register("taming_gpt")(
    Network(
        GPT,
        lambda module: ((jax.ShapeDtypeStruct((1, 1), jnp.int32),), {}),
        role="prior",
        marks=(("tok_emb.",), ("blocks.0.attn.",), ("ln_f.",)),
        read=taming.read_gpt,
        rename=taming.rename_gpt,
        torch_name=lambda name: "tok_emb.weight" if name == "tok_emb" else name,
        key="state_dict",
        read_buffers=taming.read_gpt_masks,
        buffers=taming.gpt_masks,
        hidden=taming.hidden_gpt,
        published=("n_layer", "n_embd"),
        torch_outputs={
            "output": {"": "0"},
            r"blocks\.\d+": {"0": ""},
            r"blocks\.\d+\.attn": {"0": "0"},
        },
    )
)
NETWORKS.register("taming_vqgan")(
    Network(
        TamingVQGAN,
        lambda module: ((image_like(module.image_size),), {}),
        role="autoencoder",
        code_fields=_CODE_FIELDS,
        marks=(("encoder.down.",), ("decoder.up.",), ("quantize.",), ("quant_conv.",)),
        read=taming.read_vqgan,
        rename=taming.rename_vqgan,
        torch_name=taming.torch_name_vqgan,
        key="state_dict",
        hidden=lambda fields: ("image_size", "norm_groups"),
        published=("nf", "res_blocks"),
        torch_outputs={
            "output": {"image": "0", "codebook_loss": "1"},
            "quantize": {"latents": "0", "loss": "1", "indices": "2.2"},
        },
    )
)
