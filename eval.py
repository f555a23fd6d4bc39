"""Evaluates a run: python eval.py --config=configs/X.py --workdir=DIR [--output=DIR]

Prints a table and writes metrics.json and report.html.
"""

import logging
import os

from absl import app, flags
from ml_collections import config_flags

from codeformer_jax import paths, process

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, or a model file.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for metrics.json and report.html; default WORKDIR/eval."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    for library in ("absl", "jax"):  # Orbax logs its every save through absl.
        logging.getLogger(library).setLevel(logging.WARNING)
    # Imported late, so that --help does not wait for JAX.
    from codeformer_jax.evaluate.run import evaluate_run  # noqa: PLC0415
    from codeformer_jax.train.cache import keep_compiled_programs  # noqa: PLC0415

    keep_compiled_programs()
    try:
        workdir = paths.local(_WORKDIR.value, "workdir")
        folder = workdir if os.path.isdir(workdir) else os.path.dirname(workdir)
        output = paths.local(_OUTPUT.value or os.path.join(folder, "eval"), "output")
        evaluation = evaluate_run(_CONFIG.value, workdir)
        files = evaluation.write(output)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(evaluation.table())
    print("\nwritten:", *files)


if __name__ == "__main__":
    process.run(main)
