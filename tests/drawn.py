"""A state at step 0 without its compiled `init`, which takes longer than most steps to compile."""

import jax
import numpy as np


def drawn_state(task, images):
    """Returns a state like that of `task.init` for images [b, h, w, 3], from NumPy's generator.

    Shapes, dtypes and structure are those of `init`, and so are zeros and ones; kernels, biases and
    codes are random and of about its size, also where it begins with zeros or with latents.
    """
    state = jax.eval_shape(lambda *a: task.init(*a, None), jax.random.key(0), images)
    random = np.random.default_rng(0)
    params, collections = drawn(state.params, random), drawn(state.collections, random)
    if "codebook" in collections:
        average = collections["codebook"]["quantize"]
        average["sums"] = average["embedding"]
    discriminator = state.discriminator
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    if discriminator is not None:
        names = ("params", "batch_stats")
        networks = {name: drawn(getattr(discriminator, name), random) for name in names}
        state = state.replace(discriminator=state.discriminator.replace(**networks))
    codes = state.code_usage
    return jax.device_put(
        state.replace(
            params=params,
            ema_params={name: params[name] for name in state.ema_params},
            collections=collections,
            code_usage=np.full_like(codes, 1 / len(codes)),
        )
    )


def drawn(shapes, random):
    """Variables of such shapes from a NumPy generator."""

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var", "counts"):
            return np.ones(shape, leaf.dtype)
        if name in ("mean", "position_emb"):
            return np.zeros(shape, leaf.dtype)
        bound = np.prod(shape[:-1]) ** -0.5 if name == "kernel" else 0.05
        if name in ("embedding", "embed", "sums"):
            bound = 0.5
        return random.uniform(-bound, bound, shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
