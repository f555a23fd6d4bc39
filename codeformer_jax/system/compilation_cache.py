"""Compiled programs kept between runs, so that the second start of a run takes seconds."""

import logging
import os
import tempfile
from pathlib import Path

import jax

MAX_BYTES = 10 << 30


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's persistent compilation cache in a folder of the user's; returns the folder.

    It is `codeformer_jax/jax` in $XDG_CACHE_HOME or ~/.cache. Where JAX_COMPILATION_CACHE_DIR is
    set (also to nothing, which is no cache) that holds; a folder that cannot be written is left
    alone with a warning. Returns None in these cases.

    Programs that were not used for the longest time are removed where all take more than 10 GiB, or
    than JAX_COMPILATION_CACHE_MAX_SIZE says, in bytes (-1 is no limit).
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "codeformer_jax" / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _date(folder)
    except OSError as error:
        logging.warning("compiled programs are not kept between runs: %s", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    return folder


def _date(folder: Path) -> None:
    """Dates programs without a time of use, from killed processes or from before there was a limit.

    JAX, to find the oldest, fails where it is missing.
    """
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        if not used.exists():
            used.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))
