"""`codeformer-jax convert`: PyTorch weights to a model file and back."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, add_overrides, arguments, path


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "convert",
        _run,
        "convert PyTorch weights to a model file, or back",
        "Converts published or trained PyTorch weights (.pth, .ckpt, .safetensors) to a "
        ".safetensors model file, or back with --to-torch. Pickles that could run code are "
        "refused.",
    )
    parser.add_argument("source", nargs="+", type=path, metavar="SOURCE", help="file(s) to read")
    parser.add_argument("target", type=path, metavar="TARGET", help="file or folder to write")
    parser.add_argument(
        "--network",
        help="vqgan, discriminator, codeformer, lpips, st_lpips, taming_gpt, taming_vqgan, "
        "retinaface, parsenet, rrdbnet or one of your own; default: recognised by its names",
    )
    parser.add_argument("--to-torch", action="store_true", help="write a PyTorch file")
    parser.add_argument("--force", action="store_true", help="replace TARGET")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="verify the SHA-256 of published files; default on",
    )
    parser.add_argument(
        "--key",
        help="state dict to read, such as params_ema, or one network in it: cond_stage_model",
    )
    add_overrides(parser)


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.convert.conversion import convert_file, parse_overrides  # noqa: PLC0415

    given = arguments(args)
    print(convert_file(**given | {"overrides": parse_overrides(args.overrides)}))
    return 0
