"""What the tasks share: image ranges, parameter subsets, codebook health, the end of a step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax.degrade import Recipe
from codeformer_jax.nn import PatchDiscriminator
from codeformer_jax.ops.random import rbg_keys
from codeformer_jax.tasks import guard
from codeformer_jax.tasks.state import DiscriminatorState, Optimizer, PyTree, TrainState

Metrics = guard.Metrics
# Either 0..255, as the pipeline delivers them, or floating point that is in [-1, 1] already.
Images = UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
# The teacher's codes of the clean images in a batch, row-major over the map.
Codes = Int[Array, "b n"]
Labels = Int[Array, "b"]
USAGE_DECAY = 0.99
DEAD_SHARE = 0.01


def from_uint8(images: Images) -> Float[Array, "b h w 3"]:
    """0..255 to [-1, 1]; floating-point images, which are in [-1, 1] already, as they are."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_unit(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """[-1, 1] to [0, 1], clipped: what a file would hold, but for rounding."""
    return jnp.clip((images + 1) / 2, 0, 1)


def network_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config section as keyword arguments of a module; a dtype's name becomes a dtype.

    'precision' is not a field of a module and is dropped, see `precision_of`.
    """
    fields = config.to_dict()
    fields.pop("precision", None)
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"])
    return fields


def weak_keys(config: ml_collections.ConfigDict, keys: Key[Array, "*b"]) -> Key[Array, "*b"]:
    """Returns threefry keys as those of `train.prng`, for initial weights and dropout alone."""
    return rbg_keys(keys) if config.get("train", {}).get("prng") == "rbg" else keys


def precision_of(config: Mapping[str, Any] | ml_collections.ConfigDict | None) -> str:
    """Returns the precision of a run's products, `model.precision`; see `nn.precision`.

    Args:
        config: of the run; None, of a model file, and configs of older runs are 'default'.
    """
    model = {} if config is None else config.get("model", {})
    return model.get("precision", "default")


def read_recipe(config: ml_collections.ConfigDict, name: str) -> Recipe:
    """Returns the recipe in the section `name` of `config.degradation`.

    Raises:
        ValueError: for an unknown section, or a value out of its range in it.
    """
    if name not in config.degradation:
        known = ", ".join(sorted(config.degradation))
        raise ValueError(f"{name!r} is no recipe; expected one in config.degradation: {known}")
    try:
        return Recipe.from_config(config.degradation[name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"degradation.{name}: {error}") from error


def select(params: PyTree, prefixes: Sequence[str]) -> PyTree:
    """The top-level entries of `params` whose name starts with one of `prefixes`."""
    return {name: value for name, value in params.items() if name.startswith(tuple(prefixes))}


def transplant(
    params: PyTree,
    source: PyTree,
    names: Iterable[str],
    called: str = "the network to start from",
) -> PyTree:
    """`params` with the top-level entries `names` taken from `source`, `called` so in an error.

    Raises:
        ValueError: lists every name that `source` lacks and every shape that differs.
    """
    names = set(names)
    faults = [f"{name}: missing" for name in names - source.keys()]
    faults += [f"{name}: unexpected" for name in names - params.keys()]
    for name in names & source.keys() & params.keys():
        want = flatten_dict({name: params[name]}, sep="/")
        have = flatten_dict({name: source[name]}, sep="/")
        faults += [f"{path}: missing" for path in want.keys() - have.keys()]
        faults += [f"{path}: unexpected" for path in have.keys() - want.keys()]
        faults += [
            f"{path}: shape {have[path].shape}, expected {want[path].shape}"
            for path in want.keys() & have.keys()
            if want[path].shape != have[path].shape
        ]
    if faults:
        listed = "\n  ".join(sorted(faults)[:20])
        raise ValueError(
            f"{called} does not fit this config ({len(faults)} differences):\n"
            f"  {listed}\nUse the same model settings as the run or file it comes from."
        )
    return {**params, **{name: source[name] for name in names}}


def plain_codebook(variables: PyTree) -> PyTree:
    """Parameters of an autoencoder, the codebook among them even if it is a moving average."""
    params = dict(variables["params"])
    if "codebook" in variables:
        params["quantize"] = {"embedding": variables["codebook"]["quantize"]["embedding"]}
    return params


def update_usage(usage: Float[Array, "k"], counts: Float[Array, "k"]) -> Float[Array, "k"]:
    """Moving average (decay 0.99) of each code's share of a batch."""
    return USAGE_DECAY * usage + (1 - USAGE_DECAY) * counts / jnp.maximum(counts.sum(), 1.0)


def dead_codes(usage: Float[Array, "k"]) -> Float[Array, ""]:
    """Number of codes whose share stays under 1 % of an equal share."""
    return jnp.sum(usage < DEAD_SHARE / usage.shape[0]).astype(jnp.float32)


def init_discriminator(
    discriminator: PatchDiscriminator,
    optimizer: Optimizer,
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
) -> DiscriminatorState:
    """A new discriminator for images of this size."""
    variables = discriminator.init(key, images[:1], train=False)
    return DiscriminatorState(
        params=variables["params"],
        opt_state=optimizer.init(variables["params"]),
        batch_stats=variables["batch_stats"],
    )


def start_discriminator(state: TrainState, given: PyTree | None) -> TrainState:
    """Returns `state` with the variables `given` in its discriminator, whose optimizer starts anew.

    Raises:
        ValueError: lists every name that is missing or unexpected and every shape that differs.
    """
    if given is None:
        return state
    if state.discriminator is None:
        raise ValueError("init_discriminator_from is set for a task without a discriminator")
    started = {
        name: transplant(
            getattr(state.discriminator, name),
            given[name],
            {*getattr(state.discriminator, name), *given[name]},
            "init_discriminator_from: the discriminator",
        )
        for name in ("params", "batch_stats")
    }
    return state.replace(discriminator=state.discriminator.replace(**started))
