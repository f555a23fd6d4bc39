"""`codeformer-jax prepare`: folders of images in, a checked dataset out."""

import argparse
import sys
from os.path import expanduser

from codeformer_jax.cli.parsing import Commands, add_command, add_max_megapixels


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "prepare",
        _run,
        "make a dataset of folders of images, checked and encoded once",
        "Checks all images of the folders, brings them to one size and writes them as a dataset "
        "that tfds.builder_from_directory opens. Files that cannot be used and pictures that occur "
        "twice are left out and listed in OUT/rejected.jsonl. After an interruption the same "
        "command, without --restart, resumes.",
    )
    parser.add_argument(
        "sources", nargs="+", type=expanduser, metavar="SRC", help="folder of images, or bucket"
    )
    parser.add_argument("out", type=expanduser, metavar="OUT", help="folder to make")
    parser.add_argument(
        "--size", type=int, default=512, metavar="PX", help="side of the pictures; default 512"
    )
    parser.add_argument(
        "--format",
        choices=("png", "webp", "jpeg"),
        default="png",
        help="png and webp are lossless, jpeg has quality 95; default %(default)s",
    )
    parser.add_argument(
        "--min-size",
        type=int,
        metavar="PX",
        help="minimum shorter side of a file; default size / 2",
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.1,
        metavar="F",
        help="share of the names in the validation split; default %(default)s",
    )
    add_max_megapixels(parser)
    parser.add_argument(
        "--max-rejected",
        type=int,
        metavar="N",
        help="images that may be left out; default 1 in 100, and at least 10",
    )
    _add_run_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default all cores")
    parser.add_argument("--force", action="store_true", help="replace OUT, if it is a dataset")
    parser.add_argument("--restart", action="store_true", help="discard an unfinished build")
    parser.add_argument(
        "--beam",
        action="store_true",
        help="build with Apache Beam instead of processes",
    )
    parser.add_argument(
        "--beam-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="all that follows are options of the pipeline, such as --runner=DataflowRunner",
    )


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.prepare.build import prepare  # noqa: PLC0415

    try:
        summary = prepare(
            args.sources,
            args.out,
            size=args.size,
            file_format=args.format,
            min_size=args.min_size,
            validation_fraction=args.validation_fraction,
            max_megapixels=args.max_megapixels,
            max_rejected=args.max_rejected,
            workers=args.workers,
            force=args.force,
            restart=args.restart,
            beam_args=args.beam_args if args.beam or args.beam_args else None,
        )
    except KeyboardInterrupt as error:
        left = f"; {error}" if error.args else ""
        print(f"codeformer-jax: interrupted{left}", file=sys.stderr)
        return 130
    print(summary)
    return 0
