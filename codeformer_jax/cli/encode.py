"""`codeformer-jax encode`: a dataset's codes, computed once for stages II and III."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, arguments, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "encode",
        _run,
        "compute the codes of a dataset once, for stages II and III",
        "Writes the codes that a stage-I network gives the images of a dataset, as they are and "
        "mirrored. Stages II and III read them with --config.data.codes=OUT instead of running "
        "that network in every step. It encodes the training split, so the data settings have to "
        "be those of the run. OUT appears when it is complete.",
    )
    parser.add_argument(
        "checkpoint", type=path, metavar="CHECKPOINT", help="workdir or model file of stage I"
    )
    parser.add_argument("target", type=path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--data", metavar="SOURCE", help="images; default those that CHECKPOINT was trained on"
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="side in pixels; default: the network's"
    )
    parser.add_argument(
        "--heldout-fraction",
        type=float,
        metavar="F",
        help="share that training leaves out; default CHECKPOINT's, for a model file 0.01",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images at once; default 8 a device"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read; default CHECKPOINT's, or 0"
    )
    parser.add_argument("--mesh", default="data:-1", help="devices; default %(default)s, all")
    parser.add_argument("--force", action="store_true", help="replace the codes in OUT")


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.priors.encode import encode_dataset  # noqa: PLC0415

    done = encode_dataset(**arguments(args))
    print(
        f"codes of {done.number} images in both orientations ({done.source}, {done.image_size} px, "
        f"{done.grid[0]}x{done.grid[1]} codes of {done.codebook_size}) -> {args.target}"
    )
    print(f"train with --config.data.codes={args.target}")
    return 0
