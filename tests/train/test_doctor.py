"""Checks of a machine before a run."""

import contextlib
import re
import shutil
import subprocess
import sys
import time
import types

import jax
import pytest
from tiny import tiny_vqvae

from codeformer_jax import cli
from codeformer_jax.system import parallel
from codeformer_jax.train import doctor


def listed(findings):
    """The findings of a check, and its report."""
    lines = []
    return list(findings(lines.append)), "\n".join(lines)


@pytest.mark.parametrize("mesh", ["data:8", "data:4,fsdp:2"])
def test_every_axis_adds_up_and_is_timed(mesh):
    mesh = parallel.make_mesh(mesh)
    for axis in mesh.shape:
        seconds, right = doctor.all_reduce(mesh, axis, 1 << 16)
        assert seconds > 0
        assert right
    found, text = listed(lambda report: doctor.check_links(mesh, 1 << 20, report))
    assert not found
    for axis, devices in mesh.shape.items():
        assert (f"adding up over {axis}: {devices} devices" in text) == (devices > 1)
    assert " ms for 1 MiB, " in text


def test_a_wrong_sum_is_found(monkeypatch):
    monkeypatch.setattr(doctor.jnp, "sum", lambda x, axis: x.max(axis))
    mesh = parallel.make_mesh("data:2")
    (found,), _ = listed(lambda report: doctor.check_links(mesh, 1 << 12, report))
    assert found.what == "the sum over the 2 devices of mesh axis data is wrong"


def test_bandwidth_is_that_of_a_ring(monkeypatch):
    monkeypatch.setattr(doctor, "all_reduce", lambda *_: (0.5, True))
    mesh = parallel.make_mesh("data:4")
    _, text = listed(lambda report: doctor.check_links(mesh, 1 << 30, report))
    assert f"500.00 ms for 1024 MiB, {2 * 3 / 4 * 2**30 / 0.5 / 1e9:.2f} GB/s" in text


def test_versions_devices_and_an_accelerator_that_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ACCELERATORS", {str(tmp_path / "none"): "tpu"})
    found, text = listed(doctor.check_devices)
    assert not found
    assert f"jax {jax.__version__}" in text
    assert "8 x cpu, 1 process" in text
    monkeypatch.setattr(doctor, "ACCELERATORS", {str(tmp_path): "cuda12"})
    (found,), _ = listed(doctor.check_devices)
    assert "has an accelerator" in found.what
    assert "jax[cuda12]" in found.remedy


def disk(workdir):
    return listed(lambda report: doctor.check_workdir(workdir, 1 << 16, report))


def test_a_workdir_is_left_as_it_was(tmp_path):
    found, text = disk(tmp_path / "new" / "run")
    assert not found
    assert f"{tmp_path}: write " in text
    assert not list(tmp_path.iterdir())


def fail(*_, **__):
    raise OSError(30, "Read-only file system")


@contextlib.contextmanager
def in_place(path):
    """Writes to a copy, as a file system without rename."""
    shutil.copy(path, f"{path}.copy")
    yield path.with_name(f"{path.name}.copy")


@pytest.mark.parametrize(
    ("name", "replacement", "what"),
    [
        ("atomic_path", fail, "cannot be written: .*Read-only file system"),
        ("atomic_path", in_place, "has not its content"),
        ("exclusive", contextlib.nullcontext, "two processes can lock the same file"),
    ],
)
def test_a_faulty_disk_is_found(tmp_path, monkeypatch, name, replacement, what):
    monkeypatch.setattr(doctor, name, replacement)
    (found,), _ = disk(tmp_path)
    assert re.search(what, found.what)
    assert "another disk" in found.remedy
    assert not list(tmp_path.iterdir())


def test_a_path_that_checkpoints_cannot_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoints cannot be read"):
        disk(tmp_path / "run[1]")


@pytest.mark.parametrize(
    ("read", "free", "what"),
    [
        (41.0, 10**10, []),
        (39.0, 10**10, ["data: 39.0 images/s are read, and the steps take 40.0 images/s"]),
        (41.0, 10**8, ["has 0.1 GB free, and 4 checkpoints take 2.0 GB"]),
    ],
)
def test_slow_data_and_a_small_disk_are_found(tmp_path, monkeypatch, read, free, what):
    monkeypatch.setattr(doctor, "reading_rate", lambda *_: read)
    monkeypatch.setattr(doctor, "step_seconds", lambda *_: (0.1, 500_000_000))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    config, mesh = tiny_vqvae(), parallel.make_mesh("data:1")
    found, text = listed(lambda report: doctor.check_data(config, mesh, str(tmp_path), 1.0, report))
    assert [w in f.what for w, f in zip(what, found, strict=True)] == [True] * len(what)
    assert "step       0.100 s for 4 images: 40.0 images/s" in text


def test_reading_is_timed(monkeypatch):
    config, original = tiny_vqvae(), doctor.open_source

    class Slow:
        def __init__(self, source):
            self._source = source

        def __len__(self):
            return len(self._source)

        def __getitem__(self, index):
            time.sleep(0.2)
            return self._source[index]

    monkeypatch.setattr(doctor, "open_source", lambda *a: Slow(original(*a)))
    slow = doctor.reading_rate(config, 1.0)
    monkeypatch.setattr(doctor, "open_source", original)
    assert 0 < slow < doctor.reading_rate(config, 1.0)


def test_steps_are_timed_without_weights_or_data():
    config = tiny_vqvae().unlock()
    config.data.path = "folder:/nowhere"
    seconds, size = doctor.step_seconds(config.lock(), parallel.make_mesh("data:2"))
    assert seconds > 0
    assert size > 10_000


def test_a_check_that_hangs_ends_the_process_with_its_stack():
    code = """
import time
from codeformer_jax.train.doctor import limited
def hang():
    time.sleep(300)
with limited(0.5):
    hang()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    assert "in hang" in done.stderr


def test_the_command_prints_and_exits(tmp_path, monkeypatch, capfd):
    arguments = ["doctor", "--mesh", "data:2", "--workdir", str(tmp_path), "--megabytes", "1"]
    monkeypatch.setattr(doctor, "ACCELERATORS", {})
    assert cli.main(arguments) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "nothing is wrong"
    monkeypatch.setattr(doctor, "exclusive", contextlib.nullcontext)
    assert cli.main(arguments) == 1
    printed = capfd.readouterr()
    assert printed.out.splitlines()[-1] == "1 wrong"
    assert "two processes can lock the same file\n  -> start only one run" in printed.err


def test_the_command_reads_a_config(monkeypatch, capfd):
    given = []
    monkeypatch.setattr(doctor, "examine", lambda *a, **_: given.append(a) or [])
    config = ["--config", "configs/demo.py:vqgan,short"]
    assert cli.main(["doctor", *config, "--set", "data.workers=3"]) == 0
    assert given[0][0].data.workers == 3
    assert cli.main(["doctor", *config, "--set", "data.worker=3"]) == 2
    assert cli.main(["doctor", "--set", "data.workers=3"]) == 2
    assert cli.main(["doctor", "--megabytes", "0"]) == 2
    errors = capfd.readouterr().err
    assert "--set" in errors
    assert "worker" in errors
    assert "--megabytes=0 must be positive" in errors
