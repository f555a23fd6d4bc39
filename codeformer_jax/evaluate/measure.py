"""Compiled part of an evaluation: one batch in, pictures and scores per image out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from codeformer_jax.metrics import METRICS

# (images [b, h, w, 3] in [0, 1], keys [b], recipe) -> degraded images.
DegradeFn = Callable[[Array, Array, Any], Array]


@dataclasses.dataclass(frozen=True)
class Networks:
    """Modules of an evaluation; hashable, so that a second evaluation does not compile again.

    Attributes:
        module: the network under test.
        teacher: autoencoder whose codes of the clean images are the truth, or None.
        lpips, st_lpips: an `nn.LPIPS` and an `nn.STLPIPS`, or None.
    """

    module: Any
    teacher: Any = None
    lpips: Any = None
    st_lpips: Any = None


@functools.partial(
    jax.jit, static_argnames=("networks", "restores", "metrics", "adain", "degrade_fn")
)
def measure(
    images: UInt8[Array, "b h w 3"],
    degraded: UInt8[Array, "b h w 3"] | None,
    indices: Int[Array, "b"],
    *,
    networks: Networks,
    variables: tuple[Any, Any, Any, Any],
    restores: bool,
    metrics: tuple[str, ...],
    weights: Float[Array, "n"],
    key: Key[Array, ""],
    recipe: Any,
    adain: bool,
    degrade_fn: DegradeFn,
) -> dict[str, Any]:
    """Runs the networks on clean images and scores the pictures that they make.

    Args:
        images: clean images.
        degraded: pictures to restore; None degrades `images`.
        indices: places of the images in the source, from which their degradation is drawn.
        networks, variables: modules and, in the same order, their variables.
        restores: whether the module takes degraded images, a weight and `adain`.
        metrics, weights, key, recipe, adain, degrade_fn: see `evaluate`; weights are traced.

    Returns:
        pictures: uint8 [rows + 1, b, h, w, 3], the truth last.
        scores: {metric of pictures: [rows, b, ...]}; code_scores: {metric of codes: [b, ...]}.
        finite: [b]; codes: [b, n] if the network has any; target_codes: [b, n] with a teacher.
    """
    clean = images.astype(jnp.float32) / 255
    inputs = _distances(networks, variables)
    if restores:
        if degraded is None:
            keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
            start = 2 * degrade_fn(clean, keys, recipe) - 1
        else:
            start = 2 * (degraded.astype(jnp.float32) / 255) - 1
        restore = functools.partial(_restore, networks.module, variables[0], start, adain)
        # vmap shares what does not depend on w: encoder, transformer, the generator's first half.
        outputs = jax.vmap(restore)(weights)
        made = [start[None], outputs.pop("image")]
        inputs |= {name: values[0] for name, values in outputs.items()}
        if networks.teacher is not None:
            taught = networks.teacher.apply(variables[1], 2 * clean - 1)
            made.append(taught.image[None])
            inputs["target_codes"] = taught.indices
    else:
        out = networks.module.apply(variables[0], 2 * clean - 1)
        made, inputs["codes"] = [out.image[None]], out.indices
    made = jnp.concatenate(made)
    pictures = jnp.round(jnp.clip((made + 1) / 2, 0, 1) * 255).astype(jnp.uint8)
    return {
        "pictures": jnp.concatenate([pictures, images[None]]),
        "finite": jnp.isfinite(made).all(axis=(0, 2, 3, 4)),
        **_scores(metrics, inputs, pictures, images),
        **{name: inputs[name] for name in ("codes", "target_codes") if name in inputs},
    }


def _distances(networks: Networks, variables: tuple[Any, Any, Any, Any]) -> dict[str, Any]:
    """Returns the perceptual distances of an evaluation, functions of two batches, by name."""
    found = {"lpips": (networks.lpips, variables[2]), "st_lpips": (networks.st_lpips, variables[3])}
    return {
        name: functools.partial(module.apply, values)
        for name, (module, values) in found.items()
        if module is not None
    }


def _restore(
    module: Any, variables: Any, images: Float[Array, "b h w 3"], adain: bool, w: Float[Array, ""]
) -> dict[str, Num[Array, "b ..."]]:
    """Returns 'image' and, of a network with codes, 'codes' and 'logits'."""
    out = module.apply(variables, images, w=jnp.full(len(images), w), adain=adain)
    codes = {"codes": out.indices, "logits": out.logits} if hasattr(out, "indices") else {}
    return {"image": out.image, **codes}


def _scores(
    metrics: tuple[str, ...],
    inputs: Mapping[str, Any],
    pictures: UInt8[Array, "r b h w 3"],
    images: UInt8[Array, "b h w 3"],
) -> dict[str, dict[str, Num[Array, "..."]]]:
    """Returns the scores of codes, and of pictures as a restored file holds them, in 8 bits."""
    rows, batch = pictures.shape[:2]
    made = pictures.reshape(-1, *pictures.shape[2:]).astype(jnp.float32) / 255
    truth = jnp.tile(images.astype(jnp.float32) / 255, (rows, 1, 1, 1))
    inputs = {**inputs, "pictures": made, "truth": truth}
    found = {"scores": {}, "code_scores": {}}
    for name in metrics:
        values = METRICS[name].function(*(inputs[need] for need in METRICS[name].needs))
        if METRICS[name].of_pictures:
            found["scores"][name] = values.reshape(rows, batch, *values.shape[1:])
        else:
            found["code_scores"][name] = values
    return found
