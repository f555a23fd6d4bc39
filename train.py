"""Trains or goes on: python train.py --config=configs/X.py --workdir=DIR [--config.key=value]"""

import logging

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures; a run found there goes on."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    for library in ("absl", "jax"):  # Orbax logs its every save through absl.
        logging.getLogger(library).setLevel(logging.WARNING)
    plan_only = _CONFIG.value.train.compile_only
    if _WORKDIR.value is None and not plan_only:
        raise app.UsageError("--workdir=DIR is required to train")
    # Imported late, so that --help does not wait for JAX.
    from codeformer_jax.train.loop import train  # noqa: PLC0415
    from codeformer_jax.train.plan import compile_only  # noqa: PLC0415

    try:
        if plan_only:
            compile_only(_CONFIG.value)
        else:
            train(_CONFIG.value, _WORKDIR.value)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    app.run(main)
