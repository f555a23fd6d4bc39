"""`codeformer-jax trace`: every activation of a forward pass in one file."""

import argparse
import json
import time
from typing import Any

from codeformer_jax.cli.parsing import Commands, add_command, add_overrides, path
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path

_DESCRIPTION = """\
Runs a network on an image and writes every activation to one file, in PyTorch's names and layout.
`codeformer-jax compare` compares two such files. --torch-script writes a script that records a
PyTorch module on any machine."""
_EXAMPLES = """\
  codeformer-jax trace weights/codeformer.safetensors face.png -o ours.trace --save-input x.npy
  codeformer-jax trace --torch-script trace_torch.py
  python trace_torch.py --module my.code:Net --weights net.pth --input x.npy -o theirs.trace
  codeformer-jax compare ours.trace theirs.trace
  codeformer-jax trace runs/vqgan images.npy --step -o step.trace"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "trace",
        _run,
        "write every activation of a network, to compare with PyTorch",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "weights", type=path, metavar="WEIGHTS", help="model file, PyTorch file, or workdir"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=path,
        metavar="INPUT",
        help="image file, or .npy file of images [b, 3, h, w] or of integers; LPIPS takes two",
    )
    parser.add_argument("-o", "--output", required=True, type=path, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace OUTPUT and NPY")
    parser.add_argument(
        "--save-input", type=path, metavar="NPY", help="write the input for trace_torch.py"
    )
    parser.add_argument(
        "--torch-script",
        action=_TorchScript,
        type=path,
        metavar="FILE",
        help="write trace_torch.py, which needs PyTorch, NumPy and safetensors only, and exit",
    )
    add_weights(parser)
    _add_computation(parser)


def add_weights(parser: Any) -> None:
    """Adds the options that say how WEIGHTS are read and called."""
    parser.add_argument("--network", help="registered name; default: recognised by its names")
    parser.add_argument("--key", help="state dict of the PyTorch file, such as params_ema")
    add_overrides(parser)
    parser.add_argument(
        "--call",
        type=_keywords,
        default={},
        metavar="JSON",
        help="keyword arguments of the pass, such as '{\"w\": 0.5}'; CodeFormer's default is w=1",
    )


def _add_computation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gradients", action="store_true", help="also record gradients")
    parser.add_argument(
        "--step",
        action="store_true",
        help="record the next training step of the workdir WEIGHTS: losses, gradients and updated "
        "parameters; INPUT is a batch of clean images and, optionally, one of degraded images",
    )
    parser.add_argument(
        "--stride",
        type=_positive,
        metavar="N",
        help="keep every n-th row and column of maps; default: large maps are reduced, 1 keeps all",
    )
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32", "bfloat16", "float16"),
        help="dtype of the computation; default: the network's",
    )
    parser.add_argument(
        "--precision",
        choices=("default", "high", "highest"),
        help="precision of matrix products; default: the training run's, or JAX's",
    )
    parser.add_argument("--device", help="such as cpu, gpu or gpu:1; default: JAX's choice")


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.compare.inputs import save_inputs  # noqa: PLC0415

    start, output = time.perf_counter(), storage.to_path(args.output)
    if output.exists() and not args.force:
        raise FileExistsError(f"{args.output}: exists; pass --force to replace it")
    if args.save_input and not args.save_input.endswith(".npy"):
        raise ValueError(f"--save-input: {args.save_input} must end in .npy")
    if args.save_input and storage.to_path(args.save_input).exists() and not args.force:
        raise FileExistsError(f"{args.save_input}: exists; pass --force to replace it")
    trace = _step(args) if args.step else _pass(args)
    trace.save(args.output)
    size, seconds = storage.size(output) / 1e6, time.perf_counter() - start
    print(f"{args.output}: {len(trace.entries)} entries, {size:.1f} MB, {seconds:.1f} s")
    if args.save_input:
        print(*save_inputs(args.save_input, trace.rerun.args), sep="\n")
    return 0


def _step(args: argparse.Namespace) -> Any:
    from codeformer_jax.compare.inputs import read_images  # noqa: PLC0415
    from codeformer_jax.train.trace_step import trace_next_step  # noqa: PLC0415

    weights = ("network", "key", "overrides", "call")
    computation = ("gradients", "stride", "dtype", "precision", "device", "save_input")
    refuse(args, "--step", *weights, *computation)
    if not storage.to_path(args.weights).is_dir() or len(args.inputs) > 2:
        raise ValueError("--step takes a workdir, clean images and, optionally, degraded images")
    return trace_next_step(args.weights, *map(read_images, args.inputs))


def refuse(args: argparse.Namespace, what: str, *names: str) -> None:
    """Raises ValueError if options are given that have no effect.

    Args:
        args: parsed arguments.
        what: what the options have no effect on, for the message.
        names: their destinations.
    """
    flags = {"overrides": "set"}
    given = [f"--{flags.get(n, n).replace('_', '-')}" for n in names if getattr(args, n)]
    if given:
        raise ValueError(f"{what} takes no {', '.join(given)}")


def _pass(args: argparse.Namespace) -> Any:
    from codeformer_jax.checkpoints.trained import load_trained  # noqa: PLC0415
    from codeformer_jax.compare.sources import trace_files  # noqa: PLC0415
    from codeformer_jax.convert.conversion import parse_overrides  # noqa: PLC0415

    return trace_files(
        args.weights,
        args.inputs,
        network=args.network,
        key=args.key,
        overrides=parse_overrides(args.overrides),
        call=args.call,
        gradients=args.gradients,
        stride=args.stride,
        dtype=args.dtype,
        precision=args.precision,
        device=args.device,
        load_workdir=load_trained,
    )


class _TorchScript(argparse.Action):
    """Writes trace_torch.py and exits, as --version does, before other arguments are required."""

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib import resources  # noqa: PLC0415

        source = resources.files("codeformer_jax.compare").joinpath("trace_torch.py")
        try:
            if storage.lexists(storage.to_path(values)):
                parser.error(f"{option_string}: {values} exists; remove it first")
            with atomic_path(values) as temporary:
                temporary.write_text(source.read_text("utf-8"), "utf-8")
        except OSError as error:
            parser.error(f"{option_string}: {error}")
        print(values)
        parser.exit()


def _keywords(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not an object, such as {{"w": 0.5}}')
    return found


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
