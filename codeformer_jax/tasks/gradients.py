"""How large the gradients are, by the part of the network that they belong to."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from codeformer_jax.tasks.state import PyTree

# Beginning of a parameter's top-level name -> group; what begins otherwise is the transformer's.
GROUPS = {
    "encoder": "encoder",
    "quantize": "quantizer",
    "generator": "generator",
    "decoder": "decoder",
    "fuse_convs_dict_": "fusion",
    **dict.fromkeys(("embed", "gated_", "head_"), "pixelcnn"),
}


def gradient_norms(gradients: PyTree) -> dict[str, Float[Array, ""]]:
    """'grad_norm_GROUP' -> Euclidean norm of all gradients of that group, before any clipping.

    Args:
        gradients: keyed by the parameters' top-level names; a part that is not trained has none.
    """
    groups: dict[str, dict] = {}
    for name, tree in gradients.items():
        group = next((g for start, g in GROUPS.items() if name.startswith(start)), "transformer")
        groups.setdefault(group, {})[name] = tree
    return {f"grad_norm_{group}": norm(tree) for group, tree in groups.items()}


def norm(gradients: PyTree) -> Float[Array, ""]:
    """Euclidean norm of a tree of arrays; not finite where an element is not."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(gradients)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))
