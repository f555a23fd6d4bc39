"""Images per second of the degradation recipe, against OpenCV on the same cores, and its parts.

    python benchmarks/degrade.py [--rounds 7] [--sizes 64:16 512:8] [--recipes small large]

Both are given the same drawn parameters and draw their own noise. OpenCV degrades one image per
core at a time, in threads (it releases the interpreter); rounds of the two alternate, and the ratio
is the median of the rounds' ratios. `parts` times every operation by itself on the whole batch, at
the full canvas, with the arithmetic that XLA counts (for a blur by transforms 2.5 n log2 n for each
of them) and the bytes that it must at least move: its inputs and outputs once. Prints one JSON
object.
"""

import argparse
import json
import math
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax import degrade
from codeformer_jax.ops.blur import filter2d, gaussian_kernels
from codeformer_jax.ops.jpeg import jpeg
from codeformer_jax.ops.random import standard_normal
from codeformer_jax.ops.resize import resize_bilinear

CORES = len(os.sched_getaffinity(0))


def opencv_degrade(image, parameters, rng):
    """One image [s, s, 3] in [0, 1] through OpenCV with host parameters."""
    sigma = np.diag([parameters.sigma_x**2, parameters.sigma_y**2])
    cos, sin = np.cos(parameters.theta), np.sin(parameters.theta)
    turn = np.array([[cos, -sin], [sin, cos]])
    inverse = np.linalg.inv(turn @ sigma @ turn.T)
    axis = np.arange(degrade.KERNEL_SIZE) - degrade.KERNEL_SIZE // 2
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    kernel = np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", grid, inverse, grid))
    image = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    full, side = image.shape[:2], int(parameters.small_size)
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    noise = rng.standard_normal(small.shape, dtype=np.float32)
    noisy = np.clip(small + noise * parameters.noise_sigma, 0, 1)
    flags = [cv2.IMWRITE_JPEG_QUALITY, int(parameters.jpeg_quality)]
    data = cv2.imencode(".jpg", np.round(noisy[..., ::-1] * 255).astype(np.uint8), flags)[1]
    coded = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255
    restored = cv2.resize(coded, full, interpolation=cv2.INTER_LINEAR)
    return np.clip(np.round(restored * 255), 0, 255) / 255


def measure(recipe, size, batch, rounds):
    images = jax.random.uniform(jax.random.key(0), (batch, size, size, 3))
    step = jax.jit(degrade.degrade)
    draw = jax.jit(jax.vmap(degrade.draw, in_axes=(0, None, None)), static_argnums=2)
    host_images = np.asarray(images)
    generators = [np.random.default_rng(index) for index in range(batch)]
    ours, theirs = [], []
    with ThreadPoolExecutor(CORES) as pool:
        for index in range(rounds + 1):
            keys = jax.random.split(jax.random.key(index), batch)
            start = time.perf_counter()
            jax.block_until_ready(step(images, keys, recipe))
            ours.append(time.perf_counter() - start)
            drawn = jax.device_get(draw(jax.vmap(jax.random.split)(keys)[:, 0], recipe, size))
            each = [jax.tree.map(lambda leaf, i=i: leaf[i], drawn) for i in range(batch)]
            start = time.perf_counter()
            list(pool.map(opencv_degrade, host_images, each, generators))
            theirs.append(time.perf_counter() - start)
    ours, theirs = ours[1:], theirs[1:]  # the first round compiles
    return {
        "size": size,
        "batch": batch,
        "milliseconds_per_image": round(1e3 * statistics.median(ours) / batch, 2),
        "images_per_second": round(batch / statistics.median(ours), 1),
        "opencv_images_per_second": round(batch / statistics.median(theirs), 1),
        "times_opencv": round(
            statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2
        ),
        "parts": parts(images, drawn, rounds),
    }


def parts(images, p, rounds):
    """Milliseconds, arithmetic and least traffic per image of every operation."""
    batch, size = images.shape[:2]
    p = jax.tree.map(jnp.asarray, p)
    side, full = p.small_size, jnp.full_like(p.small_size, size)
    keys = jax.random.split(jax.random.key(0), batch)
    kernels = gaussian_kernels(p.sigma_x, p.sigma_y, p.theta)
    operations = {
        "kernels": (gaussian_kernels, p.sigma_x, p.sigma_y, p.theta),
        "blur": (lambda x, k: filter2d(x, k, symmetric=True), images, kernels),
        "downsample": (resize_bilinear, images, full, full, side, side),
        "noise": (lambda k: standard_normal(k, size, size, 3), keys),
        "jpeg": (jpeg, images, p.jpeg_quality, side, side),
        "upsample": (resize_bilinear, images, side, side, full, full),
    }
    results = {}
    for name, (function, *operands) in operations.items():
        compiled = jax.jit(function).lower(*operands).compile()
        jax.block_until_ready(compiled(*operands))
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            result = jax.block_until_ready(compiled(*operands))
            seconds.append(time.perf_counter() - start)
        flops = compiled.cost_analysis().get("flops", 0.0)
        if name == "blur" and size > 128:  # XLA multiplies the logarithms of a transform's sides.
            pixels = (size + degrade.KERNEL_SIZE - 1) ** 2
            flops = batch * pixels * ((3 + 3 + 1) * 2.5 * math.log2(pixels) + 3 * 3)
        moved = sum(x.nbytes for x in (*operands, result) if x.dtype != keys.dtype)
        results[name] = {
            "milliseconds": round(1e3 * statistics.median(seconds) / batch, 3),
            "megaflops": round(flops / batch / 1e6, 1),
            "megabytes": round(moved / batch / 1e6, 2),
        }
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=["64:16", "512:8"], metavar="SIDE:BATCH")
    parser.add_argument("--recipes", nargs="+", default=["small", "large"])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # Its own threads are of no use to one image; the images share the cores.
    results = []
    for name in arguments.recipes:
        for pair in arguments.sizes:
            size, batch = map(int, pair.split(":"))
            recipe = degrade.Recipe.named(name)
            results.append({"recipe": name, **measure(recipe, size, batch, arguments.rounds)})
    report = {
        "device": jnp.zeros(()).device.device_kind,
        "cores": CORES,
        "opencv": cv2.__version__,
        "jax": jax.__version__,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
