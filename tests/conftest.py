"""Strict JAX for every test: 8 virtual CPU devices, no silent promotion, shapes checked."""

import fcntl
import gc
import json
import os
import shutil

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Most of the tests' time is compilation: in haste it takes half of it. Heavy convolutions are
    # library calls anyway.
    + " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests make many small programs; each worker then finds those of the other.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# From here on every annotated function of the package checks its arguments' shapes.
install_import_hook("codeformer_jax", "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs are hardly ever shared between files; kept, they are gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """(name, make) -> (folder, what make(folder) returned), made once for all worker processes.

    The folder is read, not written. What is returned is something that JSON can hold.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(name, make):
        folder, returned = shared / name, shared / f"{name}.json"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not returned.exists():
                shutil.rmtree(folder, ignore_errors=True)  # Of a worker that failed in it.
                returned.write_text(json.dumps(make(folder)))
        return folder, json.loads(returned.read_text())

    return made


@pytest.fixture(scope="session")
def stages(made_once):
    """Folder of the workdirs vqgan, code_prediction and restoration, and their last scores.

    Each was trained from the one before.
    """
    from tiny import train_stages  # noqa: PLC0415  After the hook above.

    return made_once("stages", train_stages)
