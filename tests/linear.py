"""Small runs of which two differ by rounding alone, however their arrays are spread."""

from functools import partial
from pathlib import Path

import flax.linen
import jax
import numpy as np
import optax
import pytest
from tiny import stage_config, tiny_gpt, tiny_pixelcnn, tiny_vqvae

from codeformer_jax.nn.cpu import doubling
from codeformer_jax.system import parallel
from codeformer_jax.train import loop
from configs import demo

OTHERS = {
    "vqvae": tiny_vqvae,
    "pixelcnn_prior": tiny_pixelcnn,
    "pixelcnn_prior_of_pixels": partial(tiny_pixelcnn, "pixels"),
    "gpt_prior": tiny_gpt,
}
# Of every task, and of both that a prior can be of.
NAMES = (*demo.STAGES, *OTHERS)
# For a test whose other cases are long compilations: VQ-VAE is the cheapest.
ONE_FAST = [pytest.param(n, marks=() if n == "vqvae" else pytest.mark.slow) for n in NAMES]
# What each starts from, or learns the codes of.
PREVIOUS = {
    "code_prediction": "vqgan",
    "restoration": "code_prediction",
    "pixelcnn_prior": "vqvae",
    "gpt_prior": "vqgan",
}
EPSILON = 1.0


def make_linear(setattr=setattr):
    """Arrays of 64 elements are sharded, maps of 64 sites doubled in folds; all is smooth.

    Adam's epsilon exceeds any gradient, and LeakyReLU has no edge.

    With the usual epsilon Adam's first steps are the gradient's sign, which rounding decides where
    a gradient is nearly zero: two right runs differ there by twice the learning rate. With a large
    one the update is the average gradient, and an error in any gradient shows in proportion. The
    slope of LeakyReLU is another such choice: of 300,000 activations some are as near to zero as
    rounding.
    """
    setattr(parallel, "MIN_SHARDED_SIZE", 64)
    setattr(doubling, "FOLDED_SITES", 64)
    setattr(optax, "scale_by_adam", partial(optax.scale_by_adam, eps=EPSILON))
    setattr(flax.linen, "leaky_relu", lambda x, a: a * x + (1 - a) * jax.nn.softplus(x))


def linear_config(name, previous=None, mesh="data:1"):
    """A tiny config of `NAMES` for eight devices, with a rate that suits that epsilon."""
    config = OTHERS[name]() if name in OTHERS else stage_config(name, previous)
    config = config.unlock()
    config.init_from = previous
    config.mesh = mesh
    config.steps = 5
    config.eval_every = config.checkpoint_every = 5
    config.data.batch_size = 8
    config.optimizer.update(learning_rate=0.01, final_learning_rate=0.01, warmup_steps=0)
    if name == "restoration":
        row = {"w": 1.0, "recipe": "small", "image_losses": True}
        config.schedule = ({"until": config.steps, **row},)
    if name == "pixelcnn_prior_of_pixels":
        config.data.image_size = 16  # The smallest generated face.
    return config.lock()


def train_all(root, mesh="data:1"):
    """Trains each of `NAMES` in `root`/NAME."""
    for name in NAMES:
        previous = str(Path(root, PREVIOUS[name])) if name in PREVIOUS else None
        loop.train(linear_config(name, previous, mesh), Path(root, name))


def relative_error(tree, expected):
    """||tree - expected|| / ||expected|| over all floating-point leaves; 0 where there are none."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    # Counts of steps would outweigh everything else.
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in pairs
        if a.dtype != np.int32
    ]
    if not pairs:
        return 0.0
    difference = sum(np.sum((a - b) ** 2) for a, b in pairs)
    return float(np.sqrt(difference / sum(np.sum(b**2) for _, b in pairs)))
