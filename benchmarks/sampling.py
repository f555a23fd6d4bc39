"""Codes per second from a GPT with its cache, against a full forward for every code.

    python benchmarks/sampling.py

A map of 16x16 codes by 24 layers, both ways on the same weights and noise, so that they draw the
same codes. The full forwards see the whole window, as the sliding window's do, whatever is sampled
already; `growing` is what they would take if each saw the codes before it only, which is estimated
from forwards of several lengths. Prints JSON.
"""

import argparse
import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from codeformer_jax.nn import GPT
from codeformer_jax.sampling import Draw, sample_gpt, start_tokens


def seconds(call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def growing_seconds(module: GPT, variables, batch: int, rounds: int) -> float:
    """Time of a full forward for every code over the codes before it alone."""
    apply = jax.jit(module.apply)
    lengths = [1, 32, 64, 128, 192, 256]
    times = []
    for length in lengths:
        tokens = jnp.zeros((batch, length), jnp.int32)
        jax.block_until_ready(apply(variables, tokens))
        runs = [seconds(lambda tokens=tokens: apply(variables, tokens)) for _ in range(rounds)]
        times.append(statistics.median(runs))
    return float(np.sum(np.interp(np.arange(1, 257), lengths, times)))


def measure(options: argparse.Namespace) -> dict[str, object]:
    module = GPT(
        vocab_size=options.codes,
        block_size=256,
        n_layer=options.layers,
        n_head=options.heads,
        n_embd=options.width,
        dtype=jnp.dtype(options.dtype),
    )
    tokens = jnp.zeros((1, 1), jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), tokens)
    parameters = sum(x.size for x in jax.tree.leaves(variables))
    keys = jax.random.split(jax.random.key(1), options.batch)
    condition = start_tokens(module, options.batch)
    # Full forwards are slow: only the last sites are sampled with them, at the same cost each.
    kept = np.arange(256).reshape(16, 16) < 256 - options.full_sites

    def cached():
        return sample_gpt(module, variables, keys, condition, how=Draw(top_k=100))

    whole = cached()

    def full():
        return sample_gpt(
            module,
            variables,
            keys,
            condition,
            how=Draw(top_k=100),
            given=whole,
            keep=kept,
            cache=False,
        )

    agree = float(np.mean(np.asarray(full()) == np.asarray(whole)))
    times = {"cached": [], "full": []}
    for _ in range(options.rounds):
        times["cached"].append(seconds(cached))
        times["full"].append(seconds(full) * 256 / options.full_sites)
    median = {name: statistics.median(values) for name, values in times.items()}
    median["growing"] = growing_seconds(module, variables, options.batch, options.rounds)
    rates = {name: 256 * options.batch / value for name, value in median.items()}
    return {
        "network": {"layers": options.layers, "width": options.width, "parameters": parameters},
        "batch": options.batch,
        "dtype": options.dtype,
        "codes_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "times_faster_than_full": round(median["full"] / median["cached"], 1),
        "times_faster_than_growing": round(median["growing"] / median["cached"], 1),
        "full_sites_measured": options.full_sites,
        "same_codes": agree,
        "rounds": options.rounds,
        "machine": {
            "device": jax.devices()[0].device_kind,
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "jax": jax.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full-sites", type=int, default=16, help="sites sampled without cache")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
