"""Every layer of four networks against the published PyTorch modules, by `codeformer_jax.compare`.

    python benchmarks/compare_published.py --reference DIR [--taming DIR] [--json FILE]

DIR are checkouts of https://github.com/sczhou/CodeFormer and
https://github.com/CompVis/taming-transformers, whose modules are imported from where they lie. The
weights are the seeded ones of the fixtures in `tests/parity`, float32 on the CPU. Each side runs in
its own process, so that its peak memory is its own.

Requirements: every called PyTorch module with parameters has a counterpart of the same name, and
every entry is within 1e-5. A lookup (`nn.Embedding`) computes nothing and is an array of ours, not
a module; its weights are compared by their digest. The full CodeFormer's trace also takes at most
2.5 times a plain forward pass and 6 GB, and the comparison 20 s. Passes are compiled and warm;
medians of 3. Ends with exit code 1 if a bar is missed.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests" / "parity"
TOLERANCE, RATIO, MEMORY_GB, COMPARE_SECONDS = 1e-5, 2.5, 6.0, 20.0
TAMING_FILES = ("models/vqgan.py", "modules/transformer/mingpt.py")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network with the fixture that holds its shapes.

    Attributes:
        network: name in `convert`.
        fields: fields that the weights do not show.
        ours, theirs: keyword arguments of the two calls.
    """

    network: str
    fields: dict
    ours: dict = dataclasses.field(default_factory=dict)
    theirs: dict = dataclasses.field(default_factory=dict)


CASES = {
    "codeformer": Case("codeformer", {}, {"w": 0.5, "adain": True}, {"w": 0.5, "adain": True}),
    "vqgan_full": Case("vqgan", {"image_size": 512, "beta_on": "codebook"}),
    "taming_vqgan_f16_1024": Case("taming_vqgan", {"image_size": 256}),
    "taming_gpt": Case("taming_gpt", {"n_head": 4}),
}


def seeded(name):
    """PyTorch state dict of a fixture and its input: images [1, h, w, 3] or tokens."""
    sys.path.insert(0, str(PARITY))
    import seeded as draws  # noqa: PLC0415

    with np.load(PARITY / f"{name}_0.npz") as fixture:
        weights = draws.seeded_state_dict(json.loads(str(fixture["shapes"])), 0)
        if "tokens" in fixture:
            return weights, fixture["tokens"][:, :-1]
    side = CASES[name].fields.get("image_size", 512)
    return weights, 2 * draws.seeded_image(side, side, 0)[None] - 1


def published_module(name, directory):
    """The published module of a case, without weights."""
    with np.load(PARITY / f"{name}_0.npz") as fixture:
        config = json.loads(str(fixture["config"])) if "config" in fixture else {}
    if not name.startswith("taming"):
        import reference  # noqa: PLC0415

        published = reference.load(directory)
        if name == "codeformer":
            return reference.make_codeformer(published, reference.SIZE)
        return reference.make_vqgan(published)
    vqgan, mingpt = load_taming(directory)
    if name == "taming_gpt":
        return mingpt.GPT(**config)
    sizes = {"n_embed": config["n_embed"], "embed_dim": config["embed_dim"]}
    return vqgan.VQModel(config["ddconfig"], None, **sizes)


def load_taming(directory):
    """Modules `models.vqgan` and `modules.transformer.mingpt` of a checkout.

    Its training framework, its losses and its sampler are not needed: stand-ins replace them.

    Raises:
        FileNotFoundError: names the first file that the checkout lacks.
    """
    import importlib  # noqa: PLC0415

    import reference  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    address = "https://github.com/CompVis/taming-transformers"
    root = reference.checkout(Path(directory) / "taming", TAMING_FILES, "--taming", address)
    stand_ins = {
        "pytorch_lightning": {"LightningModule": nn.Module},
        "main": {"instantiate_from_config": lambda config: nn.Identity()},
        "transformers": {"top_k_top_p_filtering": None},
    }
    reference.install(stand_ins)
    sys.path.insert(0, str(root.parent))
    names = (file.removesuffix(".py").replace("/", ".") for file in TAMING_FILES)
    return [importlib.import_module(f"taming.{name}") for name in names]


def record_theirs(name, directory, path):
    """Writes PyTorch's trace and returns the modules with parameters that were called."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Threads that spin starve other programs.
    import torch  # noqa: PLC0415

    from codeformer_jax.compare import trace_torch  # noqa: PLC0415

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    weights, given = seeded(name)
    # Of a mask only the zeros count; ours has ones elsewhere.
    weights |= {k: (w != 0).astype(w.dtype) for k, w in weights.items() if k.endswith("attn.mask")}
    module = published_module(name, directory)
    module.load_state_dict({key: torch.from_numpy(w) for key, w in weights.items()})
    module.eval()
    tensor = torch.from_numpy(given)
    tensor = tensor.permute(0, 3, 1, 2).contiguous() if tensor.dim() == 4 else tensor.long()
    called = set()
    for label, part in module.named_modules():
        if label and [*part.parameters(recurse=False)] and not isinstance(part, torch.nn.Embedding):
            part.register_forward_hook(lambda *_, label=label: called.add(label))
    trace_torch.record(module, tensor, path, call=CASES[name].theirs)
    return {"called": sorted(called)}


def record_ours(name, _directory, path):
    """Writes our trace; returns its seconds and those of a plain pass."""
    import jax  # noqa: PLC0415

    from codeformer_jax.compare import record  # noqa: PLC0415
    from codeformer_jax.convert import from_torch  # noqa: PLC0415

    case, (weights, given) = CASES[name], seeded(name)
    module, variables = from_torch(case.network, weights, **case.fields)
    del weights
    variables, given = jax.device_put((variables, given))
    start = time.perf_counter()
    record.trace(module, variables, given, **case.ours).save(path)
    first = time.perf_counter() - start
    peak = peak_gb()
    # What `trace` compiles, for passes without compilation.
    recorder = record._Recorder(case.network, module, case.ours, None)
    take = jax.jit(recorder.forward)

    def traced():
        arrays, _ = jax.device_get(take(variables, (given,)))
        pairs = zip(recorder.static, arrays, strict=False)
        return [record._entry(static, array) for static, array in pairs]

    plain = jax.jit(lambda variables, given: module.apply(variables, given, **case.ours))
    return {
        "first_seconds": first,
        "trace_seconds": median_seconds(traced),
        "forward_seconds": median_seconds(lambda: jax.block_until_ready(plain(variables, given))),
        "trace_peak_gb": peak,
    }


def median_seconds(function):
    """Median of three calls after one that is not counted."""
    function()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_gb():
    """Peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def worker(side, name, directory, path):
    """Runs one side in a process of its own and returns its figures."""
    command = [sys.executable, __file__, "--side", side, "--only", name, "--trace", str(path)]
    command += ["--reference", str(directory)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def run_case(name, directory, folder):
    """The figures of one network."""
    from codeformer_jax.compare import compare  # noqa: PLC0415

    paths = {side: folder / f"{name}_{side}.trace" for side in ("ours", "theirs")}
    ours, theirs = (worker(side, name, directory, path) for side, path in paths.items())
    start = time.perf_counter()
    comparison = compare(paths["ours"], paths["theirs"], suspects=False, tolerance=TOLERANCE)
    seconds = time.perf_counter() - start
    by_name = {row.name for row in comparison.rows if row.by == "name"}
    unmatched = [n for n in theirs["called"] if not by_name & {n, f"{n}.0"}]
    worst = comparison.worst
    report = {
        "network": name,
        "entries": len(comparison.rows),
        "layers": len(theirs["called"]),
        "unmatched": unmatched,
        "beyond": [row.name for row in comparison.rows if not row.agrees],
        "worst": worst.name,
        "relative_l2": worst.relative_l2,
        "codes_that_differ": len(comparison.flips),
        "compare_seconds": seconds,
        "ratio": ours["trace_seconds"] / ours["forward_seconds"],
        "trace_mb": paths["ours"].stat().st_size / 1e6,
        **ours,
    }
    for path in paths.values():
        path.unlink()
    return report | {"missed": missed(report)}


def missed(report):
    """The bars that a network does not keep."""
    found = [f"no counterpart of {', '.join(report['unmatched'])}"] if report["unmatched"] else []
    if report["beyond"]:
        found.append(f"{len(report['beyond'])} entries beyond {TOLERANCE:g}")
    if report["network"] == "codeformer":
        bars = {"ratio": RATIO, "trace_peak_gb": MEMORY_GB, "compare_seconds": COMPARE_SECONDS}
        found += [
            f"{k} {report[k]:.2f} above {bar:g}" for k, bar in bars.items() if report[k] > bar
        ]
    return found


def table(reports):
    """The figures as a table in Markdown."""
    lines = [
        "| network | layers by name | entries | worst | relative L2 | codes that differ | "
        "trace / forward | peak | comparison |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in reports:
        met = r["layers"] - len(r["unmatched"])
        lines.append(
            f"| `{r['network']}` | {met} of {r['layers']} | {r['entries']} | `{r['worst']}` | "
            f"{r['relative_l2']:.1e} | {r['codes_that_differ']} | {r['ratio']:.2f} | "
            f"{r['trace_peak_gb']:.1f} GB | {r['compare_seconds']:.1f} s |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", metavar="DIR", help="checkout of CodeFormer")
    parser.add_argument("--taming", metavar="DIR", help="checkout of Taming Transformers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--only", nargs="+", choices=CASES, help="default: all of the checkouts")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--trace", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        record = {"ours": record_ours, "theirs": record_theirs}[args.side]
        print(json.dumps(record(args.only[0], args.reference, args.trace)))
        return 0
    directories = {n: args.taming if n.startswith("taming") else args.reference for n in CASES}
    chosen = [n for n in args.only or CASES if directories[n]]
    if not chosen:
        parser.error("give --reference, --taming or both")
    sys.path.insert(0, str(ROOT))
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            reports.append(run_case(name, directories[name], Path(folder)))
            print(json.dumps(reports[-1]), file=sys.stderr, flush=True)
    print(table(reports))
    if args.json:
        machine = {"device": "cpu", "cores": len(os.sched_getaffinity(0))}
        args.json.write_text(json.dumps({"machine": machine, "results": reports}, indent=2) + "\n")
    for report in reports:
        for line in report["missed"]:
            print(f"missed: {report['network']}: {line}")
    return int(any(report["missed"] for report in reports))


if __name__ == "__main__":
    sys.exit(main())
