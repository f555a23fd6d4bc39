"""`codeformer-jax compare`: two traces layer by layer."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, path
from codeformer_jax.cli.trace import add_weights, refuse

_DESCRIPTION = """\
Compares two traces, of `codeformer-jax trace` or trace_torch.py, and names the first layer that
differs. Exit code 0: all within the tolerance; 1: a difference, infinities or NaN; 2: traces that
cannot be compared, for the printed reason."""
_EXAMPLES = """\
  codeformer-jax compare ours.trace theirs.trace
  codeformer-jax compare gpu.trace cpu.trace --tolerance 1e-3 -o report.html
  codeformer-jax compare --ladder weights/codeformer.safetensors face.png"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "compare",
        _run,
        "compare two traces and name the first layer that differs",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument("a", type=path, metavar="A", help="trace")
    parser.add_argument(
        "b",
        type=path,
        nargs="+",
        metavar="B",
        help="trace that relative differences refer to; with --ladder one input or several",
    )
    parser.add_argument(
        "--ladder",
        action="store_true",
        help="print what each precision costs against float64 on the CPU; A is a model file, "
        "PyTorch file or workdir, B its input",
    )
    parser.add_argument(
        "--tolerance",
        type=_number,
        metavar="T",
        help="largest relative L2 difference that agrees; codes must be equal; default 1e-5",
    )
    parser.add_argument(
        "-o", "--output", type=path, metavar="HTML", help="report to write or replace"
    )
    parser.add_argument(
        "--only-differences", action="store_true", help="leave rows that agree out of the table"
    )
    parser.add_argument(
        "--force", action="store_true", help="compare traces of different inputs or weights"
    )
    add_weights(parser.add_argument_group("options of --ladder"))


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.checkpoints.trained import load_trained  # noqa: PLC0415
    from codeformer_jax.compare.comparison import TOLERANCE, compare  # noqa: PLC0415

    if args.ladder:
        refuse(args, "--ladder", "tolerance", "output", "only_differences", "force")
        return _ladder(args)
    refuse(args, "a comparison of traces", "network", "key", "overrides", "call")
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    if len(args.b) > 1:
        raise ValueError(f"two traces are compared; got {1 + len(args.b)}")
    if args.output and not args.output.endswith(".html"):
        raise ValueError(f"--output: {args.output} must end in .html")
    comparison = compare(
        args.a, args.b[0], tolerance=tolerance, force=args.force, load_workdir=load_trained
    )
    if comparison.rows and not (args.only_differences and comparison.agrees):
        print(comparison.table(only_differences=args.only_differences), end="\n\n")
    print(comparison.summary())
    if args.output:
        comparison.write_html(args.output)
        print(f"report: {args.output}")
    return 0 if comparison.agrees else 1


def _ladder(args: argparse.Namespace) -> int:
    from codeformer_jax.checkpoints.trained import load_trained  # noqa: PLC0415
    from codeformer_jax.compare.ladder import ladder_of_files  # noqa: PLC0415
    from codeformer_jax.convert.conversion import parse_overrides  # noqa: PLC0415

    found = ladder_of_files(
        args.a,
        args.b,
        network=args.network,
        key=args.key,
        overrides=parse_overrides(args.overrides),
        call=args.call,
        load_workdir=load_trained,
    )
    print(found)
    return 0


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value
