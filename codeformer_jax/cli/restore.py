"""`codeformer-jax restore`: photographs or aligned faces in, restored pictures out."""

import argparse
import sys
import warnings

from codeformer_jax.cli.parsing import Commands, add_command, add_options, path, read_options
from codeformer_jax.restore.photo_options import PhotoOptions
from codeformer_jax.restore.restore_options import RestoreOptions

_DESCRIPTION = """\
Restores the faces of photographs. Each result is the whole picture, beside a NAME.json that says
what was done with each face. Folders are searched with their sub-folders, which appear again under
the output folder. With --aligned each picture is a crop of one aligned face: it is resized to the
network's size; one that is not square is extended by its edges, restored and cut back. A file that
cannot be restored is named, the others are restored, and the exit code is 1."""
_EXAMPLES = """\
  codeformer-jax restore photo.jpg holiday/ -o restored
  codeformer-jax restore photo.jpg -o restored --dry-run
  codeformer-jax restore photo.jpg -o restored --faces 1,3 --scale 2 --identity
  codeformer-jax restore faces/ -o restored -w 0.8 --checkpoint runs/stage3 --aligned
  codeformer-jax restore faces/ -o restored --samples 4 --seed 1 --score runs/gpt --aligned

the published network of 512 px, which has a non-commercial licence:
  curl -L -o codeformer.pth https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth
  codeformer-jax convert codeformer.pth codeformer.safetensors
  codeformer-jax restore photo.jpg -o restored --checkpoint codeformer.safetensors"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "restore",
        _run,
        "restore photographs or aligned faces: files and folders",
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
    add_options(parser, PhotoOptions)


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.restore.embedded import DESCRIPTION  # noqa: PLC0415
    from codeformer_jax.restore.files import restore_files  # noqa: PLC0415

    # Pictures that are refused or damaged are reported by name.
    warnings.filterwarnings("ignore", module="PIL")
    options, photo = read_options(args, RestoreOptions), read_options(args, PhotoOptions)
    if options.checkpoint is None and not photo.dry_run:
        print(DESCRIPTION, flush=True)
    try:
        summary = restore_files(args.inputs, args.output, options, photo)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("--skip-existing restores the other pictures") from None
    print(summary)
    if summary.failed:
        print(f"not {summary.done} ({len(summary.failed)}):", file=sys.stderr)
        for failure in summary.failed:
            print(f"  {failure.path}: {failure.reason}", file=sys.stderr)
    return 1 if summary.failed else 0
