"""Whether samples of a class-conditional prior are of the class that was asked for.

    python benchmarks/class_samples.py --prior runs/priors/shapes_gpt [--per-class 32]
        [--temperature 1.0] [--steps 400] [--picture samples.png]

A small convolutional classifier is trained on real, labelled pictures of the training data and
says what the samples show. Beside its share of right answers on samples stand those on held-out
real pictures and on the teacher's reconstructions of them, which bound it. Prints one JSON object.
"""

import argparse
import contextlib
import itertools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codeformer_jax.checkpoints.workdir import read_config
from codeformer_jax.data.pipeline import batches, evaluation_batches
from codeformer_jax.data.sources import open_heldout, open_source
from codeformer_jax.data.views import Jitter
from codeformer_jax.priors.kinds import SamplePlan
from codeformer_jax.priors.prior import load_prior, sample_maps
from codeformer_jax.sampling import Sampler
from codeformer_jax.tasks import common

WIDTHS = (3, 24, 48, 96)


def init(key, classes):
    """Kernels of three 3x3 convolutions, each followed by halving, and of a linear layer."""
    shapes = [(3, 3, c, d) for c, d in itertools.pairwise(WIDTHS)]
    shapes.append((WIDTHS[-1], classes))
    keys = jax.random.split(key, len(shapes))
    scales = [np.sqrt(2 / np.prod(shape[:-1])) for shape in shapes]
    return [s * jax.random.normal(k, n) for k, n, s in zip(keys, shapes, scales, strict=True)]


def classify(params, images):
    """Logits of pictures in [-1, 1]."""
    x = images
    for kernel in params[:-1]:
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.lax.reduce_window(
            jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
        )
    return x.mean(axis=(1, 2)) @ params[-1]


def train_classifier(config, classes, steps):
    optimizer = optax.adam(2e-3)
    params = init(jax.random.key(1), classes)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, images, labels):
        def loss(params):
            logits = classify(params, common.from_uint8(images))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    source, jitter = open_source(config.data, "train"), Jitter(flip=False)
    stream = batches(source, batch_size=64, seed=1, jitter=jitter)
    with contextlib.closing(stream):
        for _ in range(steps):
            batch = next(stream)
            params, state = step(params, state, batch["image"], batch["label"])
    return params


def heldout(config):
    loader = evaluation_batches(open_heldout(config), batch_size=64)
    with contextlib.closing(loader):
        found = [
            {name: batch[name][batch["valid"]] for name in ("image", "label")} for batch in loader
        ]
    return tuple(np.concatenate([part[name] for part in found]) for name in ("image", "label"))


def recognise(workdir, per_class=32, temperature=1.0, steps=400, picture=None):
    """Shares of samples, held-out pictures and reconstructions that are told right.

    Raises:
        ValueError: for a prior without classes.
    """
    prior, config = load_prior(workdir, which="best"), read_config(Path(workdir))
    classes = prior.module.classes
    if not classes:
        raise ValueError(f"{workdir} holds a prior without classes")
    labels = np.tile(np.arange(classes), per_class)
    sampler = Sampler(temperature=temperature)
    plan = SamplePlan(len(labels), prior.map_size, 0, sampler, classes=tuple(labels.tolist()))
    samples = prior.pictures_of(sample_maps(prior, plan, batch_size=64))
    images, truth = heldout(config)
    again = prior.pictures_of(prior.values_of(images))
    params = train_classifier(config, classes, steps)

    def right(images, labels):
        logits = jax.jit(classify)(params, common.from_uint8(images))
        predicted = np.asarray(jnp.argmax(logits, axis=-1))
        return predicted == labels

    hits = right(samples, labels)
    if picture:
        rows = samples.reshape(per_class, classes, *samples.shape[1:])[:8]
        grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
        Image.fromarray(grid).save(picture)
    return {
        "samples": len(labels),
        "temperature": temperature,
        "chance": 1 / classes,
        "recognised": round(float(hits.mean()), 4),
        "times_chance": round(float(hits.mean()) * classes, 2),
        "recognised_by_class": [round(float(hits[labels == k].mean()), 3) for k in range(classes)],
        "recognised_of_heldout": round(float(right(images, truth).mean()), 4),
        "recognised_of_reconstructions": round(float(right(again, truth).mean()), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", required=True, help="workdir of a class-conditional prior")
    parser.add_argument("--per-class", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=400, help="of the classifier")
    parser.add_argument("--picture", help="PNG of eight samples of each class to write")
    given = parser.parse_args()
    report = recognise(given.prior, given.per_class, given.temperature, given.steps, given.picture)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
