"""`codeformer-jax doctor`: what is wrong with a machine before a run starts on it."""

import argparse
import sys

from codeformer_jax.cli.parsing import Commands, add_command, path

_DESCRIPTION = """\
Prints versions and devices, adds up an array over each axis of the mesh, writes and reads files in
the workdir, and times the data and the steps of a config. Each thing that is wrong is named with a
remedy. Exit code: 0 if nothing is wrong, 1 otherwise, 2 if the checks could not be made."""
_EXAMPLES = """\
  codeformer-jax doctor
  codeformer-jax doctor --mesh data:4,fsdp:2 --workdir runs/vqgan
  codeformer-jax doctor --config configs/vqgan.py --set data.path=tfds:ffhq_512"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "doctor",
        _run,
        "check devices, their links, the workdir's disk and the data's speed",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument("--mesh", help="such as data:4,fsdp:2; default: the config's, or data:-1")
    parser.add_argument("--workdir", type=path, metavar="DIR", help="folder to write to and read")
    parser.add_argument(
        "--config", metavar="FILE[:ARGUMENT]", help="config whose data and steps are timed"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting of the config, such as data.workers=8; may be repeated",
    )
    parser.add_argument(
        "--megabytes",
        type=int,
        default=64,
        metavar="N",
        help="size of what is added up, written and read; default %(default)s",
    )


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.convert.conversion import parse_overrides  # noqa: PLC0415
    from codeformer_jax.system.config_file import load_config  # noqa: PLC0415
    from codeformer_jax.train.doctor import examine  # noqa: PLC0415

    if args.settings and not args.config:
        raise ValueError("--set needs --config")
    if args.megabytes < 1:
        raise ValueError(f"--megabytes={args.megabytes} must be positive")
    config = None
    if args.config:
        config = load_config(args.config)
        try:
            config.update_from_flattened_dict(parse_overrides(args.settings))
        except (KeyError, TypeError) as error:
            raise ValueError(f"--set: {error.args[0]}") from error
    found = examine(config, args.mesh, args.workdir, megabytes=args.megabytes)
    for finding in found:
        print(f"wrong: {finding.what}\n  -> {finding.remedy}", file=sys.stderr)
    print(f"{len(found)} wrong" if found else "nothing is wrong")
    return 1 if found else 0
