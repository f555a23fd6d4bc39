"""Norms of gradients by parts of the network."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.tasks.state import PyTree

# Prefix of a parameter's top-level name -> group; all others belong to the transformer.
GROUPS = {
    "encoder": "encoder",
    "quantize": "quantizer",
    "generator": "generator",
    "decoder": "decoder",
    "fuse_convs_dict_": "fusion",
    **dict.fromkeys(("embed", "gated_", "head_"), "pixelcnn"),
}


def gradient_norms(gradients: PyTree) -> dict[str, Float[Array, ""]]:
    """Returns 'grad_norm_GROUP' -> Euclidean norm of the group's gradients before clipping.

    Args:
        gradients: keyed by the parameters' top-level names; parts that are not trained are absent.
    """
    groups: dict[str, dict] = {}
    for name, tree in gradients.items():
        group = next((g for start, g in GROUPS.items() if name.startswith(start)), "transformer")
        groups.setdefault(group, {})[name] = tree
    return {f"grad_norm_{group}": norm(tree) for group, tree in groups.items()}


def norm(gradients: PyTree) -> Float[Array, ""]:
    """Returns the Euclidean norm of a tree of arrays; non-finite if an element is."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(gradients)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))
