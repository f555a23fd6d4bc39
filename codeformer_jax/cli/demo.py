"""`codeformer-jax demo`: the three stages on synthetic faces."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, arguments, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        _run,
        "train all three stages on synthetic faces, evaluate, restore",
        "Trains the three stages on synthetic faces, evaluates on held-out ones, restores some "
        "and writes a report.",
    )
    parser.add_argument(
        "--workdir",
        "--dir",
        dest="directory",
        default="demo",
        type=path,
        metavar="DIR",
        help="folder of runs and report; default %(default)s",
    )
    parser.add_argument("--short", action="store_true", help="few steps: does everything run?")
    parser.add_argument(
        "--data", type=path, metavar="DIR", help="a folder of images instead of the faces"
    )


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax import demo  # noqa: PLC0415

    return demo.run(**arguments(args))
