"""How the commands add themselves to the parser."""

import argparse
from collections.abc import Callable
from typing import Any

from codeformer_jax.system import paths

Run = Callable[[argparse.Namespace], int]
Commands = Any  # What `ArgumentParser.add_subparsers` returns; argparse does not name its class.


def path(text: str) -> str:
    """Returns an argument that is a local path, with `~` as the home folder."""
    try:
        return paths.local(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_command(
    commands: Commands, name: str, run: Run, summary: str, description: str
) -> argparse.ArgumentParser:
    """Adds a sub-command and returns its parser.

    Args:
        commands: of the main parser.
        name: of the sub-command.
        run: takes the parsed arguments and returns the exit code.
        summary: its line in the list of commands.
        description: the first paragraph of its help.
    """
    parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module that registers networks of your own; may be repeated",
    )
    return parser


def add_max_megapixels(parser: argparse.ArgumentParser) -> None:
    """Adds the option that limits the size of pictures, for commands that read a user's own."""
    parser.add_argument(
        "--max-megapixels",
        type=float,
        metavar="M",
        help="largest picture that is read, a guard against decompression bombs; default 89.5",
    )
