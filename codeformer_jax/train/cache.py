"""Compiled programs kept between runs, so that the second start of a run takes seconds."""

import logging
import os
import tempfile
from pathlib import Path

import jax


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's persistent compilation cache in a folder of the user's; returns the folder.

    It is `codeformer_jax/jax` in $XDG_CACHE_HOME or ~/.cache. Where JAX_COMPILATION_CACHE_DIR is
    set (also to nothing, which is no cache) that holds; a folder that cannot be written is left
    alone with a warning. Returns None in these cases.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "codeformer_jax" / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        logging.warning("compiled programs are not kept between runs: %s", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
