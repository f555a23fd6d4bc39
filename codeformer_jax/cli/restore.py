"""`codeformer-jax restore`: aligned faces in, restored faces out."""

import argparse
import sys

from codeformer_jax.cli.parsing import Commands, add_command, add_max_megapixels, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "restore",
        _run,
        "restore aligned faces: files and folders of images",
        "Restores pictures of aligned faces. Folders are searched for images with their "
        "sub-folders, which come back under the output folder. Pictures of another size are "
        "resized to the network's; one that is not square is continued by its edges and cut back. "
        "Pictures without colour come back without colour where the network does not give them "
        "some.",
    )
    parser.add_argument(
        "inputs", nargs="+", type=path, metavar="INPUT", help="image file or folder"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=path, metavar="DIR", help="folder of results"
    )
    parser.add_argument(
        "-w",
        "--fidelity",
        dest="w",
        type=float,
        default=0.5,
        help="0 (quality) to 1 (fidelity to the input); default %(default)s",
    )
    parser.add_argument(
        "--checkpoint",
        type=path,
        metavar="CKPT",
        help=".safetensors model file or training workdir; default weights/codeformer.safetensors",
    )
    parser.add_argument(
        "--which",
        default="latest",
        metavar="STEP",
        help="checkpoint of a workdir: latest, best or a step; default %(default)s",
    )
    parser.add_argument(
        "--adain",
        action=argparse.BooleanOptionalAction,
        help="give the codes the input's feature statistics; default on, for a workdir its run's "
        "eval.adain",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images at once; default 1 on the CPU, 8 on an accelerator",
    )
    _add_picture_options(parser)
    _add_prior_options(parser)
    _add_file_options(parser)


def _add_picture_options(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--keep-gray",
        action=argparse.BooleanOptionalAction,
        help="make the results of black-and-white pictures black and white; default what the "
        "network says: on, off for colorization",
    )
    parser.add_argument(
        "--keep-known",
        action=argparse.BooleanOptionalAction,
        help="fill in pure white pixels only and keep all others; default what the network says: "
        "off, on for inpainting",
    )
    add_max_megapixels(parser)


def _add_prior_options(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="draw N restorations of each picture, NAME_1 to NAME_N; default: one, by the "
        "likeliest codes",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of --samples; a sample follows from it, the picture's name and its number, whatever "
        "the batch; default 0",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of --samples: 0 takes the likeliest codes; default 1",
    )
    parser.add_argument(
        "--score",
        type=path,
        metavar="PRIOR",
        help="workdir or model file of a prior over the same codebook: writes a heat map of the "
        "bits of each code, NAME_score.png, and scores.json; many bits are codes that are unusual "
        "in faces",
    )
    parser.add_argument(
        "--score-teacher",
        type=path,
        metavar="AE",
        help="autoencoder of the prior; default the one in its workdir",
    )


def _add_file_options(parser: argparse.ArgumentParser):
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="write over existing results")
    existing.add_argument(
        "--skip-existing", action="store_true", help="leave existing results, restore the others"
    )
    parser.add_argument(
        "--recursive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="search sub-folders; default on",
    )
    parser.add_argument("--suffix", default="", help="put behind the results' names")
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "webp"),
        default="png",
        help="of the results; default %(default)s",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="restore at most N images")


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.restore.restore_paths import restore_command  # noqa: PLC0415

    summary = restore_command(
        args.inputs,
        args.output,
        checkpoint=args.checkpoint,
        which=args.which,
        w=args.w,
        adain=args.adain,
        batch_size=args.batch_size,
        keep_gray=args.keep_gray,
        keep_known=args.keep_known,
        max_megapixels=args.max_megapixels,
        force=args.force,
        skip_existing=args.skip_existing,
        recursive=args.recursive,
        suffix=args.suffix,
        file_format=args.format,
        limit=args.limit,
        samples=args.samples,
        seed=args.seed,
        temperature=args.temperature,
        score=args.score,
        score_teacher=args.score_teacher,
    )
    print(summary)
    if summary.failed:
        print(f"not restored ({len(summary.failed)}):", file=sys.stderr)
        for failure in summary.failed:
            print(f"  {failure.path}: {failure.reason}", file=sys.stderr)
    return 1 if summary.failed else 0
