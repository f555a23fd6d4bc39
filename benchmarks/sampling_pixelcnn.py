"""Maps drawn from a PixelCNN with cached rows, against full forwards with the same noise.

    python benchmarks/sampling_pixelcnn.py [--sizes 16 32] [--batches 1 16] [--layers 12]
        [--features 128] [--levels 512] [--classes 0] [--rounds 3] [--pixels]

The defaults are the network of `configs/pixelcnn_faces.py`, with random weights: time does not
depend on them. Rounds of the two alternate, and the ratio is the median of the rounds' ratios. That
both drew the same values is checked. A full map at 32x32 takes 1,024 full forwards (thrice as many
with --pixels). Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codeformer_jax.nn import PixelCNN
from codeformer_jax.sampling import sample_pixelcnn


def timed(function):
    """(seconds, result) of a call."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, np.asarray(result)


def measure(module, size, batch, rounds):
    labels = jnp.zeros(batch, jnp.int32) if module.classes else None
    values = jnp.zeros((batch, size, size, module.channels), jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), values, labels)
    keys = jax.vmap(jax.random.key)(jnp.arange(batch))
    ways = {
        name: lambda cache=cache: sample_pixelcnn(
            module, variables, keys, size=(size, size), labels=labels, cache=cache
        )
        for name, cache in (("cached", True), ("full", False))
    }
    drawn = {name: timed(way)[1] for name, way in ways.items()}  # the first call compiles
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way)[0])
    median = {name: statistics.median(times) for name, times in seconds.items()}
    number = values.size
    return {
        "size": size,
        "batch": batch,
        "cached_seconds": round(median["cached"], 4),
        "full_seconds": round(median["full"], 4),
        "cached_values_per_second": round(number / median["cached"], 1),
        "full_values_per_second": round(number / median["full"], 1),
        "times_full": round(
            statistics.median(
                f / c for f, c in zip(seconds["full"], seconds["cached"], strict=True)
            ),
            2,
        ),
        "same_values": bool(np.array_equal(drawn["cached"], drawn["full"])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 32])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--levels", type=int, default=512)
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pixels", action="store_true", help="three channels of 256 levels")
    given = parser.parse_args()
    fields = {"levels": given.levels, "features": given.features, "head_features": 512}
    if given.pixels:
        wide = 3 * -(-given.features // 3)
        fields = {"channels": 3, "levels": 256, "ordinal": True, "features": wide}
        fields["head_features"] = 513
    module = PixelCNN(layers=given.layers, classes=given.classes, **fields)
    results = [
        measure(module, size, batch, given.rounds)
        for size in given.sizes
        for batch in given.batches
    ]
    report = {
        "device": jnp.zeros(()).device.device_kind,
        "cpu_count": os.cpu_count(),
        "jax": jax.__version__,
        "layers": module.layers,
        "features": module.features,
        "levels": module.levels,
        "channels": module.channels,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
