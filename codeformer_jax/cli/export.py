"""`codeformer-jax export`: a training run's network as one model file."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, arguments, path

_DESCRIPTION = """\
Writes the averaged network of a training run as one .safetensors model file. `convert --to-torch`
makes a PyTorch file of that."""
_EXAMPLES = """\
  codeformer-jax export runs/stage3 codeformer.safetensors
  codeformer-jax export runs/stage3 best.safetensors --which best
  codeformer-jax export runs/stage3 small.safetensors --half --about licence=MIT"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "export",
        _run,
        "write the network of a training run as one model file",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument("workdir", type=path, metavar="WORKDIR", help="folder of a training run")
    parser.add_argument("target", type=path, metavar="TARGET", help="model file to write")
    parser.add_argument(
        "--which",
        default="latest",
        metavar="STEP",
        help="checkpoint: latest, best or a step; default %(default)s",
    )
    parser.add_argument(
        "--half", action="store_true", help="store 16-bit floats, in half the space"
    )
    parser.add_argument(
        "--about",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=TEXT",
        help="text to store in the file, such as the commit that made it; may be repeated",
    )
    parser.add_argument("--force", action="store_true", help="replace TARGET")


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.checkpoints.trained import export_trained  # noqa: PLC0415

    trained = export_trained(**arguments(args) | {"about": dict(args.about)})
    print(f"{args.workdir} at step {trained.step} -> {args.target} ({trained.network})")
    return 0


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TEXT")
    return name, value
