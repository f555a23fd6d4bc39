"""Values per second drawn from priors with their caches, against full forwards and PyTorch.

    python benchmarks/sampling.py gpt [--layers 24] [--width 1024] [--heads 16] [--codes 1024]
        [--batches 1 8] [--full-sites 16] [--reference DIR]
    python benchmarks/sampling.py pixelcnn [--sizes 16 32] [--batches 1 16] [--layers 12]
        [--features 128] [--codes 512] [--pixels]

Both with [--rounds 3] [--json FILE]. Weights are random: time does not depend on them. Ways take
turns, and ratios are medians of the rounds' ratios; that all ways of ours draw the same values is
checked.

`gpt` draws maps of 16x16 codes. `full` sees the whole window for every code, as the sliding
window's forwards do; only the last `--full-sites` are drawn with it, at the same cost each.
`--reference` takes a checkout of Taming Transformers (a PyTorch of this environment runs its
`taming/modules/transformer/mingpt.py`, with the same weights, top-k of 100 and temperature 1):
`reference_cached` is its `sample_with_past`, `reference` its `sample`, a full forward over the
codes so far for every code, as `Net2NetTransformer.sample` does; as many as `--full-sites` from
the middle of the map stand for all. `memory_gb_per_second` is what the processor reads at best: a
step reads all parameters once, 4 bytes each, whatever the batch.

`pixelcnn` is the network of `configs/pixelcnn_faces.py`; a full forward for every value is over the
whole map.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import statistics
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codeformer_jax.convert import to_torch
from codeformer_jax.nn import GPT, PixelCNN
from codeformer_jax.sampling import Sampler, sample_gpt, sample_pixelcnn, start_tokens

SIDE = 16
SITES = SIDE * SIDE
TOP_K = 100


def in_turns(ways, rounds):
    """{name: seconds of each round} of functions that were called once before."""
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way())
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    return seconds


def memory_gb_per_second(cores, size=2**28, rounds=5):
    """GB/s at which all cores together read float32 from memory, at best.

    A code costs at least one pass over the weights, whoever draws it.
    """
    parts = np.ones((cores, size // cores), np.float32)
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(lambda part: np.dot(part, part), parts))
            seconds.append(time.perf_counter() - start)
    return round(parts.nbytes / min(seconds) / 1e9, 1)


def report_of(seconds, values):
    """Rates by medians, and how many times faster than each other way the cached one is.

    `values`: name -> how many values a call draws.
    """
    each = {name: [s / values[name] for s in times] for name, times in seconds.items()}
    return {
        "values_per_second": {n: round(1 / statistics.median(t), 1) for n, t in each.items()},
        "times_faster_than": {
            name: round(
                statistics.median(a / b for a, b in zip(times, each["cached"], strict=True)), 2
            )
            for name, times in each.items()
            if name != "cached"
        },
    }


def measure_gpt(options, batch):
    module = GPT(
        vocab_size=options.codes or 1024,
        block_size=SITES,
        n_layer=options.layers or 24,
        n_head=options.heads,
        n_embd=options.width,
        dtype=jnp.dtype(options.dtype),
    )
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    keys = jax.random.split(jax.random.key(1), batch)
    condition, sampler = start_tokens(module, batch), Sampler(top_k=TOP_K)
    kept = np.arange(SITES).reshape(SIDE, SIDE) < SITES - options.full_sites

    def cached():
        return sample_gpt(module, variables, keys, condition, sampler=sampler)

    whole = np.asarray(cached())

    def full():
        options = {"known": whole, "known_mask": kept, "cache": False}
        return sample_gpt(module, variables, keys, condition, sampler=sampler, **options)

    same = bool(np.array_equal(full(), whole))
    ways = {"cached": cached, "full": full}
    values = {"cached": batch * SITES, "full": batch * options.full_sites}
    if options.reference:
        ways |= reference_ways(options, module, variables, batch)
        values |= {"reference_cached": batch * SITES, "reference": batch * options.full_sites}
    return {
        "prior": "gpt",
        "layers": module.n_layer,
        "width": module.n_embd,
        "parameters": sum(x.size for x in jax.tree.leaves(variables)),
        "dtype": options.dtype,
        "map": [SIDE, SIDE],
        "batch": batch,
        **report_of(in_turns(ways, options.rounds), values),
        "same_values": same,
        "memory_gb_per_second": memory_gb_per_second(len(os.sched_getaffinity(0))),
    }


def reference_ways(options, module, variables, batch):
    """The published samplers, with our weights."""
    reference, device = options.reference, options.device
    import torch  # noqa: PLC0415

    # It imports a function that `transformers` has not had for years.
    stand_in = types.ModuleType("transformers")
    stand_in.top_k_top_p_filtering = keep_top_k
    sys.modules.setdefault("transformers", stand_in)
    path = Path(reference) / "taming/modules/transformer/mingpt.py"
    spec = importlib.util.spec_from_file_location("mingpt", path)
    mingpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mingpt)
    mingpt.top_k_top_p_filtering = keep_top_k
    network = mingpt.GPT(
        vocab_size=module.vocab_size,
        block_size=module.block_size,
        n_layer=module.n_layer,
        n_head=module.n_head,
        n_embd=module.n_embd,
    )
    table = {n: torch.tensor(a) for n, a in to_torch("taming_gpt", variables, module).items()}
    network.load_state_dict(table, strict=True)
    network = network.eval().to(device)
    start = torch.zeros(batch, 1, dtype=torch.long, device=device)
    # A forward costs by the number of codes before: those of mean length stand for all.
    half = torch.zeros(batch, (SITES - options.full_sites) // 2, dtype=torch.long, device=device)

    def drawing(function, steps, **settings):
        def draw():
            with torch.no_grad():
                drawn = function(steps=steps, top_k=TOP_K, **settings).cpu()
            return drawn.numpy()

        return draw

    return {
        "reference_cached": drawing(mingpt.sample_with_past, SITES, x=start, model=network),
        "reference": drawing(mingpt.sample, options.full_sites, model=network, x=half, sample=True),
    }


def keep_top_k(logits, top_k, top_p=None):
    del top_p
    least = logits.topk(top_k).values[:, -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def measure_pixelcnn(options, size, batch):
    fields = {"levels": options.codes or 512, "features": options.features, "head_features": 512}
    if options.pixels:
        wide = 3 * -(-options.features // 3)
        fields = {"channels": 3, "levels": 256, "ordinal": True, "features": wide}
        fields["head_features"] = 513
    module = PixelCNN(layers=options.layers or 12, map_size=size, **fields)
    values = jnp.zeros((batch, size, size, module.channels), jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), values, None)
    keys = jax.random.split(jax.random.key(1), batch)
    ways = {
        name: lambda cache=cache: sample_pixelcnn(module, variables, keys, cache=cache)
        for name, cache in (("cached", True), ("full", False))
    }
    drawn = {name: np.asarray(way()) for name, way in ways.items()}
    return {
        "prior": "pixelcnn",
        "layers": module.layers,
        "features": module.features,
        "levels": module.levels,
        "map": [size, size, module.channels],
        "batch": batch,
        **report_of(in_turns(ways, options.rounds), dict.fromkeys(ways, values.size)),
        "same_values": bool(np.array_equal(drawn["cached"], drawn["full"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prior", choices=("gpt", "pixelcnn"))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--codes", type=int)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", help="of PyTorch: cpu or cuda")
    parser.add_argument("--full-sites", type=int, default=16, help="codes drawn without cache")
    parser.add_argument("--reference", metavar="DIR", help="a checkout of Taming Transformers")
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--pixels", action="store_true", help="three channels of 256 levels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.prior == "gpt":
        results = [measure_gpt(options, batch) for batch in options.batches]
    else:
        results = [
            measure_pixelcnn(options, size, batch)
            for size in options.sizes
            for batch in options.batches
        ]
    machine = {
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
    }
    text = json.dumps({"machine": machine, "results": results}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
