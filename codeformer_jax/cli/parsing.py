"""Building blocks of the sub-commands' parsers."""

import argparse
import dataclasses
import os
import textwrap
import typing
from collections.abc import Callable
from typing import Any

from codeformer_jax.system import storage

Run = Callable[[argparse.Namespace], int]
Commands = Any  # What `ArgumentParser.add_subparsers` returns; argparse does not name its class.


def path(text: str) -> str:
    """Returns an argument that is a path, on disk or in a bucket, with `~` as the home folder.

    Raises:
        argparse.ArgumentTypeError: if it is another kind of URL.
    """
    try:
        storage.to_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return os.path.expanduser(text)  # A slash at the end stays: it means a folder.


def add_command(
    commands: Commands,
    name: str,
    run: Run,
    summary: str,
    description: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    """Adds a sub-command.

    Args:
        commands: from `ArgumentParser.add_subparsers`.
        name: name of the sub-command.
        run: takes the parsed arguments and returns the exit code.
        summary: its line in the list of commands.
        description: what it does, at the head of its own `--help`.
        examples: command lines at the foot of its own `--help`, one a line.

    Returns:
        The sub-command's parser.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 78, break_on_hyphens=False),
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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


def add_overrides(parser: Any) -> None:
    """Adds `--set`, for commands that read PyTorch files; `convert.parse_overrides` reads it."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameter that the file does not show; may be repeated",
    )


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Adds an argument for each field of a dataclass; see `system.options.option`.

    The argument's type follows from the annotation. A bool that is False by default becomes a
    flag; any other bool gets a `--no-` form as well.

    Args:
        parser: the parser of a sub-command.
        options: the dataclass.
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        settings = dict(field.metadata)
        flags = settings.pop("flags") or (f"--{field.name.replace('_', '-')}",)
        section, exclusive = settings.pop("section", ""), settings.pop("exclusive", "")
        group = parser
        if section:
            group = groups.setdefault(section, None) or parser.add_argument_group(section)
            groups[section] = group
        if exclusive:
            shared = groups.get(exclusive) or group.add_mutually_exclusive_group()
            group = groups[exclusive] = shared
        kinds = typing.get_args(field.type) or (field.type,)
        if kinds[0] is bool:
            plain = field.default is False
            settings["action"] = "store_true" if plain else argparse.BooleanOptionalAction
        else:
            settings.setdefault("type", path if os.PathLike in kinds else kinds[0])
        if not (field.default is None or field.default is False or field.default == ""):
            settings["help"] += f"; default {'on' if field.default is True else field.default}"
        group.add_argument(*flags, dest=field.name, default=field.default, **settings)


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what a sub-command's own arguments set, by their `dest`."""
    return {k: v for k, v in vars(args).items() if k not in ("command", "run", "plugins")}


def read_options(args: argparse.Namespace, options: type) -> Any:
    """Returns the dataclass of `add_options`, filled from parsed arguments."""
    return options(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(options)}
    )
