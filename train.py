"""Trains or resumes: python train.py --config=configs/X.py --workdir=DIR [--config.key=value]"""

import logging

from absl import app, flags
from ml_collections import config_flags

from codeformer_jax.system import process, signals

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures; a run found there resumes."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, if several processes train together."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes that train together.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
_START_TIMEOUT = flags.DEFINE_float(
    "initialization-timeout", 300.0, "Seconds to wait for all processes to start."
)
_PEER_TIMEOUT = flags.DEFINE_float(
    "peer-timeout", 25.0, "Seconds until a silent process counts as dead."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    for library in ("absl", "jax"):  # Orbax logs every save through absl.
        logging.getLogger(library).setLevel(logging.WARNING)
    config, plan_only = _CONFIG.value, _CONFIG.value.train.compile_only
    if _WORKDIR.value is None and not plan_only:
        raise app.UsageError("--workdir=DIR is required to train")
    if config.train.get("deterministic"):
        process.use_deterministic_programs()
    # Imported late, so that --help does not wait for JAX.
    from codeformer_jax.system import hosts  # noqa: PLC0415
    from codeformer_jax.system.compilation_cache import keep_compiled_programs  # noqa: PLC0415
    from codeformer_jax.train import loop, plan  # noqa: PLC0415

    keep_compiled_programs()
    if plan_only:
        plan.compile_only(config)
        return
    limits = {"start_timeout": _START_TIMEOUT.value, "peer_timeout": _PEER_TIMEOUT.value}
    hosts.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, **limits)
    with hosts.together():
        if not hosts.is_main():
            logging.getLogger().setLevel(logging.ERROR)
        loop.train(config, _WORKDIR.value)


if __name__ == "__main__":
    signals.end_at_interrupt()
    process.run(main)
