"""The `codeformer-jax` command, with a file for each sub-command.

Exit codes: 0 done; 1 some images were not restored, two traces differ, or `doctor` found something
wrong; 2 nothing was done, for the printed reason; 130 interrupted. Sub-commands import JAX only
when they run, so that `--help` is immediate.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from codeformer_jax import __version__
from codeformer_jax.cli import (
    compare,
    convert,
    demo,
    doctor,
    encode,
    export,
    gallery,
    prepare,
    restore,
    sample,
    testset,
    trace,
)
from codeformer_jax.system import process

COMMANDS = (
    *(restore, sample, convert, export, trace, compare, doctor),
    *(prepare, encode, testset, gallery, demo),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command.

    Args:
        argv: its arguments; default the command line.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(argv)
    try:
        if args.plugins:
            from codeformer_jax.system.registry import import_plugins  # noqa: PLC0415

            import_plugins({"plugins": args.plugins})
        return args.run(args)
    except KeyboardInterrupt as error:
        if error.args:
            print(f"codeformer-jax: interrupted; {error}", file=sys.stderr)
        return 130
    # The package raises these for bad input; anything else is a bug and keeps its traceback.
    except OSError as error:
        named = f": '{error.filename}'" if error.filename else ""
        reason = f"{error.strerror}{named}" if error.strerror else error
    except ValueError as error:
        reason = error
    except Exception as error:
        reason = process.no_bucket(error) or process.no_devices(error)
        if reason is None:
            raise
    print(f"codeformer-jax: error: {reason}", file=sys.stderr)
    return 2


def run() -> NoReturn:
    """Runs `main` and ends the process with its exit code."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codeformer-jax", description="Blind face restoration with VQGAN and CodeFormer."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command in COMMANDS:
        command.add(commands)
    return parser
