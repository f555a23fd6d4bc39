"""The cache of compiled programs, with which a second start takes seconds."""

import logging
import os
import tempfile
from pathlib import Path

import jax

MAX_BYTES = 10 << 30


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's persistent compilation cache in $XDG_CACHE_HOME or ~/.cache.

    JAX_COMPILATION_CACHE_DIR has priority; an empty value turns the cache off. Beyond 10 GiB, or
    JAX_COMPILATION_CACHE_MAX_SIZE bytes (-1: no limit), the programs that were not used for longest
    are removed.

    Returns:
        The folder. None if the environment variable is set, or the folder cannot be written, which
        is logged.
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
    """Adds the time of use where a killed process left none; JAX's limit fails without it."""
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        if not used.exists():
            used.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))
