"""`codeformer-jax prepare`: folders of images in, a checked dataset out."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, arguments, path


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
        "sources", nargs="+", type=path, metavar="SRC", help="folder of images, or bucket"
    )
    parser.add_argument("out", type=path, metavar="OUT", help="folder to make")
    parser.add_argument(
        "--size", type=int, default=512, metavar="PX", help="side of the pictures; default 512"
    )
    parser.add_argument(
        "--format",
        dest="file_format",
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
    parser.add_argument(
        "--max-megapixels",
        type=float,
        metavar="M",
        help="largest picture that is read, a guard against decompression bombs; default 89.5",
    )
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

    given = arguments(args)
    if not (given.pop("beam") or args.beam_args):
        given["beam_args"] = None
    print(prepare(**given))
    return 0
