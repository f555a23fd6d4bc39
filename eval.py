"""Evaluates a run: python eval.py --workdir=DIR [--config=configs/X.py] [--config.key=value]

Prints a table and writes metrics.json and report.html. The default config is the run's own.
"""

import logging

from absl import app, flags
from ml_collections import config_flags

from codeformer_jax.system import process, signals, storage
from configs import vqgan

_HELP = "Configuration file, see configs/; default: the config that the run wrote into WORKDIR."
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, or a model file.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for metrics.json and report.html; default WORKDIR/eval."
)
_FORCE = flags.DEFINE_bool("force", False, "Replace the report in the output folder.")
flags.mark_flag_as_required("workdir")


def define_config(argv: list[str]) -> None:
    """Defines --config: a file or, without one, the config of the run in --workdir."""
    given = process.peek_flags(argv, "config", "workdir")
    if given.config or not given.workdir:
        config_flags.DEFINE_config_file("config", None, _HELP)
        return
    from codeformer_jax.evaluate.own_config import own_config  # noqa: PLC0415

    config = own_config(storage.to_path(given.workdir, "workdir"), vqgan.get_config())
    config_flags.DEFINE_config_dict("config", config, _HELP)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    for library in ("absl", "jax", "fsspec", "gcsfs"):  # Each tells of every file.
        logging.getLogger(library).setLevel(logging.WARNING)
    # Imported late, so that --help does not wait for JAX.
    from codeformer_jax.evaluate import plain_text, write_report  # noqa: PLC0415
    from codeformer_jax.evaluate.run import evaluate_run, report_folder  # noqa: PLC0415
    from codeformer_jax.system.compilation_cache import keep_compiled_programs  # noqa: PLC0415

    keep_compiled_programs()
    workdir = storage.to_path(_WORKDIR.value, "workdir")
    output = storage.to_path(_OUTPUT.value, "output") if _OUTPUT.value else None
    output = report_folder(workdir, output, force=_FORCE.value)
    evaluation = evaluate_run(flags.FLAGS.config, workdir)
    files = write_report(evaluation, output)
    print(plain_text(evaluation))
    print("\nwritten:", *files)


if __name__ == "__main__":
    signals.end_at_interrupt()
    process.run(main, define_config)
