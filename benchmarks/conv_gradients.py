"""Gradients of convolutions on this CPU: XLA's own against those of `codeformer_jax/nn`.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/conv_gradients.py [--repeats 15]

For layers of the VQGAN at 128 px, batch 2, and for its deepest ones at 512 px: milliseconds of the
forward convolution and of each gradient, medians, the ways in turn; the same for convolutions of
doubled maps, doubled first or folded (`nn/cpu/doubling.py`). Prints JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


# Batch, side, channels in and out, side of the kernel.
LAYERS = (
    *((2, 128, 64, 64, 3), (2, 64, 128, 128, 3), (2, 32, 256, 256, 3), (2, 16, 256, 256, 3)),
    *((2, 16, 512, 512, 3), (2, 8, 512, 512, 3), (2, 4, 512, 512, 3)),
    *((2, 128, 64, 128, 1), (2, 64, 64, 128, 1), (2, 4, 512, 512, 1)),
)


# Batch, side before doubling, channels in and out.
DOUBLED = ((2, 64, 128), (2, 32, 128), (2, 32, 256), (2, 16, 256), (2, 8, 256))


def measure(layer, repeats):
    """{what: median milliseconds} of one layer."""
    from codeformer_jax.nn.cpu import conv_gradients as ours  # noqa: PLC0415

    ways = {
        "forward": lambda x, kernel, g: ours.plain_convolve(x, kernel),
        "by the input, XLA": ours.input_gradient,
        "by the input, taps": ours.input_gradient_by_taps,
        "by the kernel, XLA": ours.kernel_gradient,
        "by the kernel, strips": ours.kernel_gradient_by_strips,
    }
    b, side, c, d, kernel = layer
    return timed(ways, ((b, side, side, c), (kernel, kernel, c, d), (b, side, side, d)), repeats)


def measure_doubled(layer, repeats):
    """{what: median milliseconds} of one convolution of a doubled map."""
    import jax  # noqa: PLC0415

    from codeformer_jax.nn.cpu import doubling  # noqa: PLC0415

    def convolve(from_sites):
        def way(x, kernel):
            doubling.FOLDED_SITES = from_sites  # Read while the program is traced.
            return doubling.doubling_convolve(x, kernel)

        return way

    def gradient(from_sites, argument):
        return lambda x, kernel, g: jax.vjp(convolve(from_sites), x, kernel)[1](g)[argument]

    def forward(from_sites):
        return lambda x, kernel, g: convolve(from_sites)(x, kernel)

    ways = {}
    for name, from_sites in (("doubled", float("inf")), ("folded", 0)):
        ways[f"forward, {name}"] = forward(from_sites)
        ways[f"by the input, {name}"] = gradient(from_sites, 0)
        ways[f"by the kernel, {name}"] = gradient(from_sites, 1)
    b, side, c = layer
    return timed(ways, ((b, side, side, c), (3, 3, c, c), (b, 2 * side, 2 * side, c)), repeats)


def timed(ways, shapes, repeats):
    """{way: median milliseconds} for random arrays of these shapes, the ways in turn."""
    import jax  # noqa: PLC0415

    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    compiled = {name: jax.jit(way).lower(*arrays).compile() for name, way in ways.items()}
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(way(*arrays))
            seconds[name].append(time.perf_counter() - start)
    return {name: round(1e3 * statistics.median(each), 2) for name, each in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="default %(default)s")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    rows = [{"layer": layer, **measure(layer, arguments.repeats)} for layer in LAYERS]
    doubled = [{"layer": layer, **measure_doubled(layer, arguments.repeats)} for layer in DOUBLED]
    about = {"cores": len(os.sched_getaffinity(0)), "milliseconds": rows, "doubled": doubled}
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
