"""`codeformer-jax sample`: pictures from a prior."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, add_options, path, read_options
from codeformer_jax.priors.sample_options import SampleOptions

_DESCRIPTION = """\
Samples maps of codes from a prior and decodes them. OUT.png is a sheet of all pictures, OUT.npz has
the codes and the settings, and the folder OUT the single pictures. Existing files are not replaced
without --force."""
_EXAMPLES = """\
  codeformer-jax sample --checkpoint runs/gpt -n 16 -o faces.png
  codeformer-jax sample --checkpoint runs/pixelcnn --class 3,7 --temperature 0.9 --top-k 100
  codeformer-jax sample --checkpoint runs/gpt --complete face.png --keep top-half -o more.png
  codeformer-jax sample --checkpoint prior.safetensors --teacher vqgan.safetensors"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "sample",
        _run,
        "sample pictures from a prior: a GPT or a PixelCNN",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=path,
        metavar="PRIOR",
        help="workdir or model file of a prior",
    )
    parser.add_argument(
        "-o",
        "--output",
        default="samples.png",
        type=path,
        metavar="OUT",
        help="sheet to write; default %(default)s",
    )
    add_options(parser, SampleOptions)


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.priors.sample import sample_command  # noqa: PLC0415

    print(sample_command(args.checkpoint, args.output, read_options(args, SampleOptions)))
    return 0
