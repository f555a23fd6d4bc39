"""The `codeformer-jax` command: parses, calls, prints.

Exit codes: 0 done, 1 some images were not restored, 2 nothing done because of what the message
says, 130 interrupted. Sub-commands import what they need when they run: `--help` waits for nothing.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from codeformer_jax import __version__

Run = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command and returns the exit code; `argv` None is the command line."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    # What the package raises for bad input; anything else is a bug and keeps its traceback.
    except (ValueError, OSError) as error:
        print(f"codeformer-jax: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codeformer-jax", description="Blind face restoration with VQGAN and CodeFormer."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_restore(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_demo(commands)
    return parser


def _add_restore(commands):
    parser = _add(
        commands,
        "restore",
        _restore,
        "restore aligned faces: files and folders of images",
        "Restores pictures of aligned faces. Folders are searched for images with their "
        "sub-folders, which come back under the output folder. Pictures of another size are "
        "resized to the network's; one that is not square is continued by its edges and cut back. "
        "Pictures without colour come back without colour.",
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image file or folder")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of results")
    parser.add_argument(
        "-w",
        "--fidelity",
        dest="w",
        type=float,
        default=0.5,
        help="0 (quality) to 1 (fidelity to the input); default %(default)s",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="CKPT",
        help=".safetensors model file or training workdir; default weights/codeformer.safetensors",
    )
    parser.add_argument(
        "--which",
        default="latest",
        metavar="STEP",
        help="checkpoint of a workdir: latest, best or a step; default %(default)s",
    )
    parser.add_argument(
        "--adain",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give the codes the input's feature statistics; default on",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images at once; default 1 on the CPU, 8 on an accelerator",
    )
    _add_file_options(parser)


def _add_file_options(parser: argparse.ArgumentParser):
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="write over existing results")
    existing.add_argument(
        "--skip-existing", action="store_true", help="leave existing results, restore the others"
    )
    parser.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="search sub-folders; default on",
    )
    parser.add_argument("--suffix", default="", help="put behind the results' names")
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "webp"),
        default="png",
        help="of the results; default %(default)s",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="restore at most N images")


def _restore(args: argparse.Namespace) -> int:
    from codeformer_jax.restore.command import restore_command  # noqa: PLC0415

    summary = restore_command(
        args.inputs,
        args.output,
        checkpoint=args.checkpoint,
        which=args.which,
        w=args.w,
        adain=args.adain,
        batch_size=args.batch_size,
        force=args.force,
        skip_existing=args.skip_existing,
        recursive=args.recursive,
        suffix=args.suffix,
        file_format=args.format,
        limit=args.limit,
    )
    print(summary)
    if summary.failed:
        print(f"not restored ({len(summary.failed)}):", file=sys.stderr)
        for failure in summary.failed:
            print(f"  {failure.path}: {failure.reason}", file=sys.stderr)
    return 1 if summary.failed else 0


def _add_convert(commands):
    parser = _add(
        commands,
        "convert",
        _convert,
        "convert PyTorch weights to a model file, or back",
        "Converts published or trained PyTorch weights (.pth) to a .safetensors model file, or "
        "back with --to-torch. Pickles that carry anything but tensors are refused.",
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="file(s) to read")
    parser.add_argument("target", metavar="TARGET", help="file or folder to write")
    parser.add_argument("--network", help="vqgan, discriminator, codeformer, lpips; default: told")
    parser.add_argument("--to-torch", action="store_true", help="write a PyTorch file")
    parser.add_argument("--force", action="store_true", help="replace TARGET")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare published files with their SHA-256; default on",
    )
    parser.add_argument("--key", help="table of the PyTorch file, such as params_ema")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameter that the file does not show; may be repeated",
    )


def _convert(args: argparse.Namespace) -> int:
    from codeformer_jax.convert.command import convert_file, parse_overrides  # noqa: PLC0415

    summary = convert_file(
        args.source,
        args.target,
        network=args.network,
        to_torch=args.to_torch,
        force=args.force,
        verify=args.verify,
        key=args.key,
        overrides=parse_overrides(args.overrides),
    )
    print(summary)
    return 0


def _add_export(commands):
    parser = _add(
        commands,
        "export",
        _export,
        "write the network of a training run as one model file",
        "Writes the averaged network of a training run as one .safetensors model file; "
        "`convert --to-torch` makes a PyTorch file of that.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="folder of a training run")
    parser.add_argument("target", metavar="TARGET", help="model file to write")
    parser.add_argument("--which", default="latest", help="latest, best or a step; default latest")
    parser.add_argument("--force", action="store_true", help="replace TARGET")


def _export(args: argparse.Namespace) -> int:
    from codeformer_jax.train.checkpoint import export_trained  # noqa: PLC0415

    trained = export_trained(args.workdir, args.target, which=args.which, force=args.force)
    print(f"{args.workdir} at step {trained.step} -> {args.target} ({trained.network})")
    return 0


def _add_demo(commands):
    parser = _add(
        commands,
        "demo",
        _demo,
        "train all three stages on synthetic faces, evaluate, restore",
        "Trains the three stages on synthetic faces, evaluates on held-out ones, restores some "
        "and writes a report.",
    )
    parser.add_argument(
        "--workdir",
        "--dir",
        dest="directory",
        default="demo",
        metavar="DIR",
        help="folder of runs and report; default %(default)s",
    )
    parser.add_argument("--short", action="store_true", help="few steps: does everything run?")
    parser.add_argument("--data", metavar="DIR", help="a folder of images instead of the faces")


def _demo(args: argparse.Namespace) -> int:
    from codeformer_jax import demo  # noqa: PLC0415

    return demo.run(args.directory, short=args.short, data=args.data)


def _add(commands, name: str, run: Run, summary: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
