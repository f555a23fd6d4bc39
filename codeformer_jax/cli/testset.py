"""`codeformer-jax testset`: pairs of degraded and clean pictures that others can check."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, arguments, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "testset",
        _run,
        "make or verify a test set: degraded and clean pictures with their hashes",
        "Degrades pictures once and writes pairs (OUT/lq, OUT/gt) with manifest.json, which holds "
        "all drawn parameters and the SHA-256 of each file and of the whole. eval.py "
        "--config.eval.testset=OUT verifies them and scores a network on them.",
    )
    parser.usage = "%(prog)s [options] GT [GT ...] OUT\n       %(prog)s --verify DIR"
    parser.add_argument(
        "paths",
        nargs="+",
        type=path,
        metavar="GT",
        help="folders or files of clean pictures; OUT comes last",
    )
    parser.add_argument("--verify", action="store_true", help="compare a set with its manifest")
    parser.add_argument("--recipe", default="celeba-test", help="degradation; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="side in pixels; default %(default)s"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pictures by name")
    parser.add_argument("--force", action="store_true", help="replace a test set at OUT")


def _run(args: argparse.Namespace) -> int:
    if args.verify:
        return _verify(args.paths)
    if len(args.paths) < 2:
        raise ValueError("give the pictures and, last, the folder to make: testset GT... OUT")
    from codeformer_jax.evaluate.make_testset import make_testset  # noqa: PLC0415

    given = arguments(args)
    del given["verify"]
    *inputs, output = given.pop("paths")
    made = make_testset(inputs, output, **given)
    print(f"{output}: {made}")
    print(f"SHA-256 {made.sha256}")
    return 0


def _verify(paths: list[str]) -> int:
    if len(paths) != 1:
        raise ValueError(f"--verify takes one test set, got {len(paths)}: {', '.join(paths)}")
    from codeformer_jax.evaluate.testset import open_testset  # noqa: PLC0415

    found = open_testset(paths[0])
    print(f"{paths[0]}: {found}; every file agrees with the manifest")
    print(f"SHA-256 {found.sha256}")
    return 0
