"""`codeformer-jax gallery`: a labelled picture of degraded faces."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, arguments, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "gallery",
        _run,
        "write a picture of faces degraded by a recipe",
        "Writes one picture with a row for each recipe and image: the clean image, then draws of "
        "the recipe above their parameters.",
    )
    parser.add_argument(
        "target", type=path, metavar="OUT", help="picture to write, such as gallery.png"
    )
    parser.add_argument(
        "inputs", nargs="*", type=path, metavar="INPUT", help="image file; default a synthetic face"
    )
    parser.add_argument(
        "--recipe",
        dest="recipes",
        action="append",
        metavar="NAME",
        help="named recipe (default large), or one of a config: FILE.py[:ARGUMENT][@SECTION]; "
        "default SECTION: its eval.recipe. May be repeated",
    )
    parser.add_argument("-n", dest="draws", type=int, default=8, help="draws; default %(default)s")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the draws; default %(default)s"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=512,
        help="side of the degraded images in pixels; default %(default)s",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT")
    parser.add_argument("--cell", type=int, help="side at which they are shown; default --size")


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.evaluate.gallery import write_gallery  # noqa: PLC0415

    given = arguments(args) | {"recipes": args.recipes or ["large"]}
    height, width = write_gallery(**given)
    print(f"{args.target}: {width} x {height} px")
    return 0
