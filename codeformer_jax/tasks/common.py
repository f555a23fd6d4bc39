"""Shared parts of the tasks: image ranges, config sections, parameter subsets, code statistics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int, Key, UInt8

from codeformer_jax.degrade import Recipe
from codeformer_jax.nn import PatchDiscriminator
from codeformer_jax.system.keys import rbg_keys
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
    """Returns images in [-1, 1]; floating-point images pass unchanged."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_unit(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns images of [-1, 1] in [0, 1], clipped."""
    return jnp.clip((images + 1) / 2, 0, 1)


def network_fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config section as keyword arguments of a module.

    A dtype's name becomes a dtype. 'precision' is no field of a module and is dropped, see
    `precision_of`.
    """
    fields = config.to_dict()
    fields.pop("precision", None)
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"])
    return fields


def weak_keys(config: ml_collections.ConfigDict, keys: Key[Array, "*b"]) -> Key[Array, "*b"]:
    """Returns threefry keys as keys of `train.prng`, for initial weights and dropout alone."""
    return rbg_keys(keys) if config.get("train", {}).get("prng") == "rbg" else keys


def precision_of(config: Mapping[str, Any] | ml_collections.ConfigDict | None) -> str:
    """Returns the precision of a run's products, `model.precision`, see `nn.precision`.

    Args:
        config: the run's config. Without it (a model file) and without the setting (an older run)
            the precision is 'default'.
    """
    model = {} if config is None else config.get("model", {})
    return model.get("precision", "default")


def read_recipe(config: ml_collections.ConfigDict, name: str) -> Recipe:
    """Returns the recipe in section `name` of `config.degradation`.

    Raises:
        ValueError: an unknown section, or a value out of its range.
    """
    if name not in config.degradation:
        known = ", ".join(sorted(config.degradation))
        raise ValueError(f"{name!r} is not a recipe; expected one in config.degradation: {known}")
    try:
        return Recipe.from_config(config.degradation[name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"degradation.{name}: {error}") from error


def select(params: PyTree, prefixes: Sequence[str]) -> PyTree:
    """Returns the top-level entries of `params` whose names start with one of `prefixes`."""
    return {name: value for name, value in params.items() if name.startswith(tuple(prefixes))}


def transplant(
    params: PyTree,
    source: PyTree,
    names: Iterable[str],
    called: str = "the network to start from",
) -> PyTree:
    """Returns `params` with some top-level entries of `source`.

    Args:
        params: parameters of a network.
        source: parameters of the network to copy from.
        names: top-level names to copy.
        called: what error messages call `source`.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ; up to 20 are listed.
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
    """Returns an autoencoder's parameters with its codebook, even if that is a moving average."""
    params = dict(variables["params"])
    if "codebook" in variables:
        params["quantize"] = {"embedding": variables["codebook"]["quantize"]["embedding"]}
    return params


def update_usage(usage: Float[Array, "k"], counts: Float[Array, "k"]) -> Float[Array, "k"]:
    """Returns the moving average (decay 0.99) of each code's share of a batch.

    Args:
        usage: the average before the step.
        counts: uses of each code in the batch.
    """
    return USAGE_DECAY * usage + (1 - USAGE_DECAY) * counts / jnp.maximum(counts.sum(), 1.0)


def dead_codes(usage: Float[Array, "k"]) -> Float[Array, ""]:
    """Returns the number of codes whose average share is under 1 % of an equal share."""
    return jnp.sum(usage < DEAD_SHARE / usage.shape[0]).astype(jnp.float32)


def init_discriminator(
    discriminator: PatchDiscriminator,
    optimizer: Optimizer,
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
) -> DiscriminatorState:
    """Returns the state of a random discriminator for images of this size."""
    variables = discriminator.init(key, images[:1], train=False)
    return DiscriminatorState(
        params=variables["params"],
        opt_state=optimizer.init(variables["params"]),
        batch_stats=variables["batch_stats"],
    )


def start_discriminator(state: TrainState, given: PyTree | None) -> TrainState:
    """Returns `state` with the variables `given` in its discriminator, if there are any.

    The discriminator's optimizer keeps its initial state.

    Raises:
        ValueError: the task has no discriminator, names are missing or unexpected, or shapes
            differ.
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
