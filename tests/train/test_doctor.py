"""Checks of machines before a run."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import types
from unittest.mock import Mock

import jax
import pytest
from tiny import tiny_vqvae

from codeformer_jax import cli
from codeformer_jax.system import parallel, storage
from codeformer_jax.train import doctor
from codeformer_jax.train.doctor import data, finding, links, machine, workdir
from codeformer_jax.train.estimate import CHIPS, chip_of


def listed(check):
    """The findings of a check, and its report."""
    lines = []
    return check(lines.append), "\n".join(lines)


def links_of(mesh, size, names=("here",)):
    return listed(lambda report: links.check_links(mesh, list(names), size, report))


@pytest.mark.parametrize("mesh", ["data:8", "data:4,fsdp:2", "slice:2,data:2,fsdp:2"])
def test_every_axis_adds_up_and_is_timed(mesh):
    mesh = parallel.make_mesh(mesh)
    for axis in mesh.shape:
        seconds, right = links.all_reduce(mesh, axis, 1 << 16)
        assert seconds > 0
        assert right
    found, text = links_of(mesh, 1 << 20)
    assert not found
    for axis, devices in mesh.shape.items():
        line = f"all-reduce over {axis}: {devices} devices inside a machine"
        assert (line in text) == (devices > 1)
    assert re.search(r" ms for 4 KiB; [\d.]+ ms for 1 MiB, [\d.]+ GB/s per device$", text)


def test_a_wrong_sum_is_found(monkeypatch):
    monkeypatch.setattr(links.jnp, "sum", lambda x, axis: x.max(axis))
    (found,), _ = links_of(parallel.make_mesh("data:2"), 1 << 12)
    assert found.what == "the sum over the 2 devices of mesh axis data is wrong"


def test_bandwidth_is_that_of_a_ring(monkeypatch):
    monkeypatch.setattr(links, "all_reduce", lambda *_: (0.5, True))
    _, text = links_of(parallel.make_mesh("data:4"), 1 << 30)
    assert f"500.00 ms for 1024 MiB, {2 * 3 / 4 * 2**30 / 0.5 / 1e9:.2f} GB/s" in text


def pod(slices, machines, kind="TPU v5 lite", platform="tpu"):
    """A mesh of devices, and the machine of each: four on each process, eight in each slice."""

    devices = [
        Mock(
            spec=jax.Device,
            id=i,
            slice_index=i // 8 if slices > 1 else 0,
            process_index=i // 4 if machines > 1 else 0,
            device_kind=kind,
            platform=platform,
        )
        for i in range(16)
    ]
    mesh = parallel.make_mesh("slice:2,data:4,fsdp:2", devices)
    return mesh, [f"host{i}" for i in range(machines)]


@pytest.mark.parametrize(
    ("slices", "machines", "places"),
    [
        (2, 4, ("across slices", "across machines", "inside a machine")),
        (1, 4, ("across machines", "across machines", "inside a machine")),
        (1, 1, ("inside a machine",) * 3),
    ],
)
def test_an_axis_says_what_it_crosses(slices, machines, places):
    mesh, names = pod(slices, machines)
    assert tuple(links.reach(mesh, axis, names) for axis in mesh.shape) == places


@pytest.mark.parametrize(
    ("kind", "platform", "rates"),
    [
        ("TPU v5 lite", "tpu", (3.125, 90.0, 90.0)),
        ("NVIDIA H100 80GB HBM3", "gpu", (50.0, 50.0, 450.0)),
        ("cpu", "cpu", (None, None, None)),
    ],
)
def test_a_slow_axis_is_found_where_its_rate_is_published(monkeypatch, kind, platform, rates):
    mesh, names = pod(2, 4, kind, platform)
    size = 1 << 26
    monkeypatch.setattr(links, "all_reduce", lambda mesh, axis, _: (seconds[axis], True))
    for share, slow in ((0.19, True), (0.21, False)):
        seconds = {
            axis: 2 * (n - 1) / n * size / 1e9 / (share * (rate or 1e-3))
            for (axis, n), rate in zip(mesh.shape.items(), rates, strict=True)
        }
        found, text = links_of(mesh, size, names)
        assert len(found) == (3 if slow and rates[0] else 0)
        for rate in filter(None, rates):
            assert f"{share:.0%} of {rate:g} published" in text


@pytest.mark.parametrize(
    ("kind", "name"),
    [("TPU v4", "TPU v4"), ("TPU v5 lite", "TPU v5e"), ("TPU v5", "TPU v5p"), ("NVIDIA L4", None)],
)
def test_a_device_has_the_rates_of_its_chip(kind, name):
    assert chip_of(kind) == CHIPS.get(name)


def test_versions_devices_and_an_accelerator_that_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ACCELERATORS", {str(tmp_path / "none"): "tpu"})
    (found, names), text = listed(machine.check_machines)
    assert not found
    assert len(names) == 1
    assert f"jax {jax.__version__}" in text
    assert "8 x cpu, 1 process on 1 machine" in text
    monkeypatch.setattr(machine, "ACCELERATORS", {str(tmp_path): "cuda12"})
    ((found,), _), _ = listed(machine.check_machines)
    assert "has an accelerator" in found.what
    assert "jax[cuda12]" in found.remedy


def test_a_process_that_differs_from_the_first_is_found(monkeypatch):
    first = {"name": "a", "versions": {"jax": "1", "flax": "2"}, "devices": "4 x cpu"}
    other = {"name": "b", "versions": {"jax": "3", "flax": "2"}, "devices": "2 x cpu"}
    answers = [json.dumps(x) for x in (first, first, other)]
    monkeypatch.setattr(machine.hosts, "gather", lambda *_: answers)
    monkeypatch.setattr(machine, "ACCELERATORS", {})
    (found, names), text = listed(machine.check_machines)
    assert names == ["a", "a", "b"]
    assert "3 processes on 2 machines" in text
    assert [x.what for x in found] == [
        "process 2 (b) has 2 x cpu, process 0 has 4 x cpu",
        "process 2 (b) has jax 3 (process 0: 1)",
    ]


def test_findings_of_some_processes_name_them(monkeypatch):
    own = [doctor.Finding("a", "b"), doctor.Finding("c", "d")]
    answers = [json.dumps([["a", "b"], ["c", "d"]]), json.dumps([["a", "b"]])]
    monkeypatch.setattr(doctor.hosts, "gather", lambda *_: answers)
    monkeypatch.setattr(doctor.jax, "process_count", lambda: 2)
    assert [x.what for x in doctor._of_all(own)] == ["a", "process 0: c"]


def disk(folder, size=1 << 16):
    return listed(lambda report: workdir.check_workdir(str(folder), size, report))


def test_a_workdir_is_left_as_it_was(tmp_path):
    found, text = disk(tmp_path / "new" / "run")
    assert not found
    assert text.startswith(f"workdir    writing 0 MiB to {tmp_path} ...\n           write ")
    assert re.search(r"write \d+ MB/s, read \d+ MB/s, list \d+ ms, delete \d+ ms, .* GB free", text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_workdir_that_is_a_file_is_found(tmp_path, name):
    (tmp_path / "file").write_text("text")
    (found,), text = disk(tmp_path / name)
    assert found.what.endswith(f"{tmp_path / 'file'} is not a folder")
    assert not text


def test_slow_storage_has_time_and_is_found(tmp_path, monkeypatch):
    limits = []

    @contextlib.contextmanager
    def limited(stage, seconds=None):
        limits.append(seconds)
        yield

    monkeypatch.setattr(workdir, "limited", limited)
    monkeypatch.setattr(workdir, "SLOW", 1e15)
    found, _ = disk(tmp_path, finding.ENOUGH)
    assert [re.sub(r"[\d.]+ MB", "N MB", x.what) for x in found] == [
        f"workdir={tmp_path} is slow: {kind} N MB/s" for kind in ("write", "read")
    ]
    long = finding.LIMIT + finding.ENOUGH / 1e15  # Of all but the opening, the locks and the end.
    assert limits == [None, *[long] * 4, None, long, None]


def fail(*_, **__):
    raise OSError(30, "Read-only file system")


@contextlib.contextmanager
def in_place(path):
    """Writes to a copy, as a file system without rename, but for the first time."""
    if not path.exists():
        path.parent.mkdir()
        path.touch()
        yield path
        return
    shutil.copy(path, f"{path}.copy")
    yield path.with_name(f"{path.name}.copy")


@pytest.mark.parametrize(
    ("name", "replacement", "what"),
    [
        ("atomic_path", fail, "cannot create a file: OSError: .*Read-only file system"),
        ("atomic_path", in_place, "a replaced file does not have the new content"),
        ("exclusive", contextlib.nullcontext, "a second run would not be refused: no locks"),
        ("exclusive", fail, "a second run would not be refused: no locks"),
    ],
)
def test_a_faulty_disk_is_found(tmp_path, monkeypatch, name, replacement, what):
    monkeypatch.setattr(workdir, name, replacement)
    (found,), _ = disk(tmp_path)
    assert re.search(what, found.what)
    assert "another --workdir" in found.remedy
    assert not list(tmp_path.iterdir())


def test_a_bucket_is_left_as_it_was(bucket, object_store):
    found, text = disk(f"{bucket}/run")
    assert not found
    assert text.startswith(f"workdir    writing 0 MiB to {bucket}/run ...\n           write ")
    assert "free" not in text
    own = [request.split()[0] for request in object_store.requests if bucket[9:] in request]
    assert {"GET", "DELETE"} <= set(own)
    assert not storage.filesystem(storage.to_path(bucket)).find(bucket)


def test_a_bucket_that_does_not_exist_is_found(bucket):
    (found,), _ = disk("gs://nowhere/run")
    assert found.what.startswith("workdir=gs://nowhere/run: cannot create a file: ")
    assert "permissions" in found.remedy


def test_a_path_that_checkpoints_cannot_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoints cannot be read"):
        disk(tmp_path / "run[1]")


@pytest.mark.parametrize(
    ("read", "free", "saved", "what"),
    [
        (41.0, 10**10, 0, []),
        (39.0, 10**10, 0, ["data is read at 39.0 images/s; the steps need 40.0"]),
        (41.0, 10**9, 0, ["has 1.0 GB free, and further checkpoints (up to 4) take 2.0 GB"]),
        (41.0, 10**9, 3, []),
        (41.0, 10**8, 3, ["has 0.1 GB free, and further checkpoints (up to 1) take 0.5 GB"]),
        (41.0, 10**8, 4, ["has 0.1 GB free, and further checkpoints (up to 1) take 0.5 GB"]),
    ],
)
def test_slow_data_and_a_small_disk_are_found(tmp_path, monkeypatch, read, free, saved, what):
    for step in range(saved):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    monkeypatch.setattr(data, "reading_rate", lambda *_: read)
    monkeypatch.setattr(data, "step_seconds", lambda *_: (0.1, 500_000_000))
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))
    config, mesh = tiny_vqvae(), parallel.make_mesh("data:1")
    found, text = listed(lambda report: data.check_data(config, mesh, str(tmp_path), 1.0, report))
    assert [w in f.what for w, f in zip(what, found, strict=True)] == [True] * len(what)
    assert "step       0.100 s for 4 images: 40.0 images/s" in text


def test_data_that_cannot_be_read_are_found(tmp_path):
    config = tiny_vqvae().unlock()
    config.data.path = str(tmp_path / "nowhere")
    mesh = parallel.make_mesh("data:1")
    found, _ = listed(lambda report: data.check_data(config.lock(), mesh, None, 1.0, report))
    assert [finding.remedy for finding in found] == ["correct data.path"]
    assert "the data cannot be read: no image folder" in found[0].what


def test_reading_is_timed(monkeypatch):
    config, original = tiny_vqvae(), data.open_source

    class Slow:
        def __init__(self, source):
            self._source = source

        def __len__(self):
            return len(self._source)

        def __getitem__(self, index):
            time.sleep(0.2)
            return self._source[index]

    monkeypatch.setattr(data, "open_source", lambda *a: Slow(original(*a)))
    slow = data.reading_rate(config, 1.0)
    monkeypatch.setattr(data, "open_source", original)
    assert 0 < slow < data.reading_rate(config, 1.0)


def test_steps_are_timed_without_weights_or_data():
    config = tiny_vqvae().unlock()
    config.data.path = "folder:/nowhere"
    seconds, size = data.step_seconds(config.lock(), parallel.make_mesh("data:2"))
    assert seconds > 0
    assert size > 10_000


def test_devices_that_hang_end_the_process_with_its_stack():
    code = """
import time
import jax
from codeformer_jax.train import doctor
def hang():
    time.sleep(300)
jax.devices, doctor.finding.LIMIT = hang, 0.5
doctor.examine(None)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    assert "in hang" in done.stderr
    limit = "in 'start of the devices': the limit of 0.5 s has passed (codeformer-jax doctor)"
    assert limit in done.stderr
    assert done.stdout.splitlines()[-1] == "devices    starting ..."


def test_the_command_prints_and_exits(tmp_path, monkeypatch, capfd):
    arguments = ["doctor", "--mesh", "data:2", "--workdir", str(tmp_path), "--megabytes", "1"]
    monkeypatch.setattr(machine, "ACCELERATORS", {})
    assert cli.main(arguments) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "nothing is wrong"
    monkeypatch.setattr(workdir, "exclusive", contextlib.nullcontext)
    assert cli.main(arguments) == 1
    *_, count, what, remedy = capfd.readouterr().out.splitlines()
    assert count == "wrong      1"
    assert what == f"  - workdir={tmp_path}: a second run would not be refused: no locks"
    assert remedy.startswith("    -> start only one run")


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
