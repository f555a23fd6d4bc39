"""Images per second of the degradation recipe, against an OpenCV loop of the same recipe.

    python benchmarks/degrade.py [--rounds 7] [--sizes 64:16 512:2]

Both are given the same drawn parameters; both draw their own noise. Rounds of the two alternate,
and the ratio is the median of the rounds' ratios. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import time

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax import degrade


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
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for index in range(rounds + 1):
        keys = jax.random.split(jax.random.key(index), batch)
        start = time.perf_counter()
        jax.block_until_ready(step(images, keys, recipe))
        middle = time.perf_counter()
        pairs = jax.vmap(jax.random.split)(keys)
        drawn = jax.device_get(draw(pairs[:, 0], recipe, size))
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], drawn) for i in range(batch)]
        begin = time.perf_counter()
        for image, parameters in zip(host_images, each, strict=True):
            opencv_degrade(image, parameters, rng)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - begin)
    ours, theirs = ours[1:], theirs[1:]  # the first round compiles
    return {
        "size": size,
        "batch": batch,
        "milliseconds_per_batch": round(1e3 * statistics.median(ours), 2),
        "images_per_second": round(batch / statistics.median(ours), 1),
        "opencv_images_per_second": round(batch / statistics.median(theirs), 1),
        "times_opencv": round(
            statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=["64:16", "64:32", "512:2"])
    arguments = parser.parse_args()
    recipes = {"small": degrade.Recipe.named("small"), "large": degrade.Recipe.named("large")}
    results = []
    for name, recipe in recipes.items():
        for pair in arguments.sizes:
            size, batch = map(int, pair.split(":"))
            results.append({"recipe": name, **measure(recipe, size, batch, arguments.rounds)})
    report = {
        "device": jnp.zeros(()).device.device_kind,
        "cpu_count": os.cpu_count(),
        "opencv": cv2.__version__,
        "opencv_threads": cv2.getNumThreads(),
        "jax": jax.__version__,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
