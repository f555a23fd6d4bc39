"""Strict JAX for every test: 8 virtual CPU devices, no silent promotion, shapes checked."""

import fcntl
import gc
import importlib.metadata
import json
import os
import shutil
import types
import uuid

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Compilation takes most of the tests' time; these flags halve it. Heavy convolutions call a
    # library anyway.
    + " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)
# An unknown flag ends the process, and JAX 0.12 does not know this one.
if int(importlib.metadata.version("jaxlib").split(".")[1]) < 11:
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Each worker reads the small programs that the other has compiled.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Every annotated function of the package that is imported below checks its arguments' shapes.
install_import_hook("codeformer_jax", "beartype.beartype")


def pytest_collection_finish():
    """Keeps the garbage collector from going through all modules again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees compiled programs: files hardly ever share them, and they take gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Returns a function (name, make) -> (folder, make(folder)) that all workers share.

    Tests read the folder and do not write to it. `make` returns something that JSON can hold.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(name, make):
        folder, returned = shared / name, shared / f"{name}.json"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not returned.exists():
                shutil.rmtree(folder, ignore_errors=True)  # A worker has failed in it.
                returned.write_text(json.dumps(make(folder)))
        return folder, json.loads(returned.read_text())

    return made


@pytest.fixture(scope="session")
def stages(made_once):
    """Folder with the workdirs vqgan, code_prediction and restoration, and their last scores.

    Each stage was trained from the one before.
    """
    from tiny import train_stages  # noqa: PLC0415  After the hook above.

    return made_once("stages", train_stages)


@pytest.fixture(scope="module")
def object_store():
    """A server of gs://bkt on loopback, for this process and its children; see `emulator`."""
    pytest.importorskip("gcp_storage_emulator")
    from emulator import serve  # noqa: PLC0415  Its packages are optional.

    with serve() as store:
        yield store


@pytest.fixture
def bucket(object_store):
    """The URL of an empty folder on `object_store`, which has no faults."""
    from emulator import BUCKET, forget_connections  # noqa: PLC0415  As above.

    object_store.faults.clear()
    forget_connections()
    return f"gs://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def waits(monkeypatch):
    """The waits of gcsfs between its attempts, which are skipped."""
    asked = []

    async def sleep(seconds):
        asked.append(seconds)

    monkeypatch.setattr("gcsfs.retry.asyncio", types.SimpleNamespace(sleep=sleep))
    return asked
