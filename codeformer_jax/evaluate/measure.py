"""The compiled part of an evaluation: one batch in, pictures and scores per image out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from codeformer_jax import metrics
from codeformer_jax.nn import CodeFormer

# (images [b, h, w, 3] in [0, 1], keys [b], recipe) -> degraded images.
DegradeFn = Callable[[Array, Array, Any], Array]


@dataclasses.dataclass(frozen=True)
class Networks:
    """The modules; hashable, so that evaluating them a second time does not compile again."""

    module: Any
    teacher: Any = None
    lpips: Any = None


@functools.partial(jax.jit, static_argnames=("networks", "adain", "degrade_fn"))
def measure(
    images: UInt8[Array, "b h w 3"],
    degraded: UInt8[Array, "b h w 3"] | None,
    indices: Int[Array, "b"],
    *,
    networks: Networks,
    variables: tuple[Any, Any, Any],
    weights: Float[Array, "n"],
    key: Key[Array, ""],
    recipe: Any,
    adain: bool,
    degrade_fn: DegradeFn,
) -> dict[str, Any]:
    """What the networks make of clean images, and how good it is.

    Args:
        images: clean images.
        degraded: what is restored; None degrades the images here.
        indices: their places in the source, which then fix their degradation.
        networks, variables: modules and, in the same order, their variables.
        weights: fidelity weights; traced.
        key, recipe, adain, degrade_fn: see `evaluate`.

    Returns:
        pictures: uint8 [rows + 1, b, h, w, 3], the truth last.
        scores: {name: [rows, b]}; finite: [b]; codes: [b, n].
        With a teacher: target_codes [b, n], code_accuracy [b], code_cross_entropy [b].
    """
    clean = images.astype(jnp.float32) / 255
    result = {}
    if isinstance(networks.module, CodeFormer):
        if degraded is None:
            keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
            inputs = 2 * degrade_fn(clean, keys, recipe) - 1
        else:
            inputs = 2 * (degraded.astype(jnp.float32) / 255) - 1
        restore = functools.partial(_restore, networks.module, variables[0], inputs, adain)
        # vmap shares what does not depend on w: encoder, transformer, the generator's first half.
        restored, logits, codes = jax.vmap(restore)(weights)
        made, codes, logits = [inputs[None], restored], codes[0], logits[0]
        if networks.teacher is not None:
            taught = networks.teacher.apply(variables[1], 2 * clean - 1)
            made.append(taught.image[None])
            result |= _code_scores(logits, codes, taught.indices)
    else:
        out = networks.module.apply(variables[0], 2 * clean - 1)
        made, codes = [out.image[None]], out.indices
    made = jnp.concatenate(made)
    pictures = jnp.round(jnp.clip((made + 1) / 2, 0, 1) * 255).astype(jnp.uint8)
    return result | {
        "pictures": jnp.concatenate([pictures, images[None]]),
        "scores": _image_scores(networks.lpips, variables[2], pictures, images),
        "finite": jnp.isfinite(made).all(axis=(0, 2, 3, 4)),
        "codes": codes,
    }


def _restore(
    module: CodeFormer,
    variables: Any,
    images: Float[Array, "b h w 3"],
    adain: bool,
    w: Float[Array, ""],
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b n k"], Int[Array, "b n"]]:
    out = module.apply(variables, images, w=jnp.full(len(images), w), adain=adain)
    return out.image, out.logits, out.indices


def _code_scores(
    logits: Float[Array, "b n k"], codes: Int[Array, "b n"], targets: Int[Array, "b n"]
) -> dict[str, Num[Array, "..."]]:
    return {
        "target_codes": targets,
        "code_accuracy": metrics.code_accuracy(codes, targets),
        "code_cross_entropy": metrics.code_cross_entropy(logits, targets),
    }


def _image_scores(
    lpips: Any, variables: Any, pictures: UInt8[Array, "r b h w 3"], images: UInt8[Array, "b h w 3"]
) -> dict[str, Float[Array, "r b"]]:
    """Scores of 8-bit pictures, which is what a restored file holds."""
    rows, batch = pictures.shape[:2]
    made = pictures.reshape(-1, *pictures.shape[2:]).astype(jnp.float32) / 255
    truth = jnp.tile(images.astype(jnp.float32) / 255, (rows, 1, 1, 1))
    scores = {"psnr": metrics.psnr(made, truth), "ssim": metrics.ssim(made, truth)}
    if lpips is not None:
        scores["lpips"] = lpips.apply(variables, 2 * made - 1, 2 * truth - 1)
    return {name: score.reshape(rows, batch) for name, score in scores.items()}
