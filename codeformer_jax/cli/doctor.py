"""`codeformer-jax doctor`: what is wrong with machines before a run starts on them."""

import argparse

from codeformer_jax.cli.parsing import Commands, add_command, path

_DESCRIPTION = """\
Prints versions and devices, all-reduces arrays over each axis of the mesh, writes, lists, reads
and deletes files in the workdir, and times the data and the steps of a config. Started with several
processes, as train.py, it checks all of them together. Each thing that is wrong is named at the
end, with a remedy. Exit code: 0 if nothing is wrong, 1 otherwise, 2 if the checks could not be
made."""
_EXAMPLES = """\
  codeformer-jax doctor
  codeformer-jax doctor --mesh data:4,fsdp:2 --workdir gs://BUCKET/runs/vqgan
  codeformer-jax doctor --config configs/vqgan.py --set data.path=tfds:ffhq_512
  srun codeformer-jax doctor --workdir /shared/runs/vqgan"""


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "doctor",
        _run,
        "check devices, their links, the workdir and the data's speed",
        _DESCRIPTION,
        _EXAMPLES,
    )
    parser.add_argument("--mesh", help="such as data:4,fsdp:2; default: the config's, or data:-1")
    parser.add_argument(
        "--workdir", type=path, metavar="DIR", help="folder or bucket to write to and read"
    )
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
        help="size of the array and of the file; default %(default)s",
    )
    _add_processes(parser)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of train.py about several processes."""
    group = parser.add_argument_group(
        "several processes", "as for train.py; default: read from the environment"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="number of this process, from 0")
    for name, default, what in (
        ("--initialization-timeout", 300.0, "seconds to wait for all processes to start"),
        ("--peer-timeout", 25.0, "seconds until a silent process counts as dead"),
    ):
        group.add_argument(
            name, type=float, default=default, metavar="S", help=f"{what}; default %(default)s"
        )


def _run(args: argparse.Namespace) -> int:
    from codeformer_jax.convert.conversion import parse_overrides  # noqa: PLC0415
    from codeformer_jax.system import hosts  # noqa: PLC0415
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
    limits = {"start_timeout": args.initialization_timeout, "peer_timeout": args.peer_timeout}
    hosts.initialize(args.coordinator, args.processes, args.process, **limits)
    with hosts.together():
        found = examine(config, args.mesh, args.workdir, megabytes=args.megabytes)
        if hosts.is_main():
            print(f"wrong      {len(found)}" if found else "nothing is wrong")
            for finding in found:
                print(f"  - {finding.what}\n    -> {finding.remedy}")
    return 1 if found else 0
