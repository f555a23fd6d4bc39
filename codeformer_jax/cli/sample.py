"""`codeformer-jax sample`: pictures from a prior."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "sample",
        _run,
        "draw pictures from a prior: a GPT or a PixelCNN",
        "Draws maps of codes from a prior and decodes them: OUT is a sheet of all pictures, "
        "OUT.npz has the codes and how they were drawn, and the folder OUT the single pictures "
        "(each without OUT's suffix). Sample i follows from the seed and i, whatever the batch.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=path,
        metavar="PRIOR",
        help="workdir or model file of a prior",
    )
    parser.add_argument(
        "--teacher",
        type=path,
        metavar="AE",
        help="workdir or model file of the autoencoder; default the one in the workdir",
    )
    parser.add_argument(
        "--which",
        default="latest",
        metavar="STEP",
        help="checkpoint of a workdir: latest, best or a step; default %(default)s",
    )
    parser.add_argument("-n", dest="number", type=int, default=16, help="default %(default)s")
    parser.add_argument(
        "-o",
        "--output",
        default="samples.png",
        type=path,
        metavar="OUT",
        help="default %(default)s",
    )
    _add_drawing(parser)
    _add_given(parser)
    parser.add_argument(
        "--each",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the single pictures; default on",
    )
    parser.add_argument("--force", action="store_true", help="replace what exists")


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="C",
        help="class, several such as 0,3,7, or all; default: the samples are spread over all",
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="height x width in pixels, such as 256x384, or one number for a square; multiples of "
        "the autoencoder's downsampling, of a GPT at least the trained size; default that",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="lower is more usual, 0 takes the likeliest code; default %(default)s",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest codes")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="only the likeliest codes that sum up to P"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="maps at once; default 8 on the CPU, 64 on an accelerator",
    )


def _add_given(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--complete",
        type=path,
        metavar="IMAGE",
        help="continue this picture; its middle is brought to --size",
    )
    parser.add_argument(
        "--keep",
        metavar="PART",
        help="of --complete: top-half (default), left-half, or a share such as top:0.3 or "
        "left:0.3; a code sees those above and left of it, so bottom and right cannot be kept",
    )
    parser.add_argument(
        "--condition",
        type=path,
        metavar="IMAGE",
        help="its codes are the condition, for a prior with such",
    )
    parser.add_argument(
        "--condition-teacher",
        type=path,
        metavar="AE",
        help="autoencoder of --condition; default that of the samples",
    )


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.priors.sample import Request, sample_command  # noqa: PLC0415

    names = ("teacher", "which", "classes", "number", "size", "temperature", "top_k", "top_p")
    names += ("seed", "batch_size", "complete", "keep", "condition", "condition_teacher")
    names += ("each", "force")
    options = {name: getattr(args, name) for name in names}
    print(sample_command(args.checkpoint, args.output, Request(**options)))
    return 0
