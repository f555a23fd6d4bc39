"""Steps per second of stage II with codes computed once, against the teacher in every step.

    python benchmarks/encoded_codes.py [--sizes demo:8 256:1 512:1] [--rounds 7] [--steps 4]

`demo` is the network of `configs/demo.py` at 64 px, a number the published one at that size; behind
the colon stands the batch. Weights are random: time does not depend on them. Rounds of the two
alternate, and the ratio is the median of the rounds' ratios; `encoded_images_per_second` counts
images in both orientations. Prints one JSON object.
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

from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.priors.encode import make_encode
from codeformer_jax.system import parallel
from codeformer_jax.tasks import make_task
from configs import codeformer_stage2, demo


def config_of(name):
    if name == "demo":
        return demo.get_config("code_prediction")
    config = codeformer_stage2.get_config().unlock()
    config.model.image_size = config.data.image_size = int(name)
    return config.lock()


def timed(function, count):
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(count):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count


def measure(name, batch, rounds, steps):
    config = config_of(name)
    size = config.data.image_size
    task = make_task(config)
    faces = SyntheticFaces("train", size, batch)
    images = np.stack([faces[i]["image"] for i in range(batch)])
    state = jax.jit(lambda key: task.init(key, images, None))(jax.random.key(0))
    own = ("encoder", "quantize", "generator")
    frozen = {"teacher": {"params": {n: jax.tree.map(jnp.copy, state.params[n]) for n in own}}}
    images = jnp.asarray(images)
    encode = make_encode(task.teacher, frozen["teacher"], parallel.make_mesh("data:1"))
    codes = encode(images)[:, 0]
    key, phase = jax.random.key(1), task.phase(0)

    def compiled(*codes):
        arguments = (state, frozen, images, key, phase, *codes)
        step = jax.jit(task.train_step).lower(*arguments).compile()
        return (lambda: step(*arguments)), step.cost_analysis()["flops"]

    (teacher, teacher_flops), (known, known_flops) = compiled(), compiled(codes)
    seconds = {"teacher": [], "codes": [], "encode": []}
    for function in (teacher, known, lambda: encode(images)):  # the first call is slower
        jax.block_until_ready(function())
    for _ in range(rounds):
        seconds["teacher"].append(timed(teacher, steps))
        seconds["codes"].append(timed(known, steps))
        seconds["encode"].append(timed(lambda: encode(images), steps))
    pairs = zip(seconds["teacher"], seconds["codes"], strict=True)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "network": name,
        "image_size": size,
        "batch": batch,
        "steps_per_second_with_teacher": round(1 / median["teacher"], 4),
        "steps_per_second_with_codes": round(1 / median["codes"], 4),
        "times_teacher": round(statistics.median(a / b for a, b in pairs), 3),
        "times_teacher_flops": round(teacher_flops / known_flops, 3),
        "encoded_images_per_second": round(batch / median["encode"], 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["demo:8", "256:1", "512:1"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    arguments = parser.parse_args()
    results = []
    for pair in arguments.sizes:
        name, _, batch = pair.partition(":")
        results.append(measure(name, int(batch), arguments.rounds, arguments.steps))
    report = {
        "device": jnp.zeros(()).device.device_kind,
        "cpu_count": os.cpu_count(),
        "jax": jax.__version__,
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
