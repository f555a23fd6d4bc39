"""`codeformer-jax restore`: aligned faces in, restored faces out."""

import argparse
import sys

from codeformer_jax.cli.parsing import Commands, add_command, add_options, path, read_options
from codeformer_jax.restore.restore_options import RestoreOptions

_DESCRIPTION = """\
Restores pictures of aligned faces. Folders are searched with their sub-folders, which appear again
under the output folder. Pictures are resized to the network's size; one that is not square is
extended by its edges, restored and cut back. A file that cannot be restored is named, the others
are restored, and the exit code is 1."""
_EXAMPLES = """\
  codeformer-jax restore faces/ portrait.jpg -o restored
  codeformer-jax restore faces/ -o restored -w 0.8 --checkpoint runs/stage3
  codeformer-jax restore faces/ -o restored --samples 4 --seed 1 --score runs/gpt"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "restore",
        _run,
        "restore aligned faces: files and folders of images",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "inputs", nargs="+", type=path, metavar="INPUT", help="image file or folder"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=path, metavar="DIR", help="folder of the results"
    )
    add_options(parser, RestoreOptions)


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.restore.files import restore_files  # noqa: PLC0415

    options = read_options(args, RestoreOptions)
    summary = restore_files(args.inputs, args.output, options)
    print(summary)
    if summary.failed:
        print(f"not restored ({len(summary.failed)}):", file=sys.stderr)
        for failure in summary.failed:
            print(f"  {failure.path}: {failure.reason}", file=sys.stderr)
    return 1 if summary.failed else 0
