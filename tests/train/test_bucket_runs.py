"""Whole runs in a bucket: they end with the same bits as on disk, whatever the server does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import with_devices
from PIL import Image
from states import assert_equal, state_at
from tiny import stage_config, tiny_config, train_stages

from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.system import process
from codeformer_jax.system.storage import to_path
from codeformer_jax.train import loop

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("vqgan", "code_prediction", "restoration")

pytestmark = [
    pytest.mark.slow,
    # TensorStore may report each array to an event loop that a failed save has closed.
    pytest.mark.filterwarnings(
        "ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(scope="module")
def runs(object_store):
    """URL of a folder with the workdirs of the three stages, and their last scores."""
    url = "gs://bkt/runs"
    return url, train_stages(to_path(url))


def names(files):
    """Names without what differs from run to run."""
    patterns = ("events.out.tfevents", r"checkpoints/.*/default/", "commit_success")
    return sorted(name for name in files if not any(re.search(x, name) for x in patterns))


def test_runs_end_as_on_disk(stages, runs, object_store):
    (folder, scores), (url, bucket_scores) = stages, runs
    assert bucket_scores == scores
    for stage in STAGES:
        local, remote = folder / stage, to_path(url) / stage
        assert saved_steps(remote) == saved_steps(local)
        assert_equal(state_at(remote, 4), state_at(local, 4))
        found = [str(p.relative_to(local)) for p in local.rglob("*") if p.is_file()]
        assert names(object_store.names(str(remote))) == names(found)
        for name in ("metrics.jsonl", "goodput.jsonl"):
            assert all(map(json.loads, object_store.read(f"{remote}/{name}").splitlines()))


def run_command(script, *arguments):
    """Runs a program of the package as a user does, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, *script, *arguments],
        cwd=ROOT,
        env=with_devices(1),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_evaluate_restore_encode_and_export_in_a_bucket(runs, object_store, bucket, tmp_path):
    url, _ = runs
    settings = ["--config.eval.batches=1", "--config.eval.batch_size=2", "--config.mesh=data:1"]
    run_command(["eval.py"], f"--workdir={url}/restoration", f"--output={bucket}/eval", *settings)
    assert {"metrics.json", "report.html"} <= set(object_store.names(f"{bucket}/eval"))
    assert b"psnr" in object_store.read(f"{bucket}/eval/metrics.json")

    command = ["-m", "codeformer_jax.cli"]
    run_command(command, "export", f"{url}/restoration", f"{bucket}/model.safetensors")
    exported, trained = (
        load_trained(x) for x in (f"{bucket}/model.safetensors", f"{url}/restoration")
    )
    assert_equal(exported.variables, trained.variables)

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("one.png", "two.png"):
        Image.fromarray(pixels).save(tmp_path / name)
        (to_path(bucket) / "photos" / name).write_bytes((tmp_path / name).read_bytes())
    arguments = ["--checkpoint", f"{bucket}/model.safetensors", "--aligned", "yes"]
    run_command(command, "restore", f"{bucket}/photos", "-o", f"{bucket}/restored", *arguments)
    run_command(command, "restore", str(tmp_path), "-o", str(tmp_path / "restored"), *arguments)
    found = object_store.names(f"{bucket}/restored")
    local = [p.relative_to(tmp_path / "restored") for p in (tmp_path / "restored").rglob("*.*")]
    assert found == sorted(map(str, local))
    for name in found:
        if name.endswith(".png"):
            assert object_store.read(f"{bucket}/restored/{name}") == (
                (tmp_path / "restored" / name).read_bytes()
            )

    run_command(command, "encode", f"{url}/vqgan", f"{bucket}/codes", "--mesh", "data:1")
    config = stage_config("code_prediction", f"{url}/vqgan").unlock()
    config.data.codes = f"{bucket}/codes"
    scores = loop.train(config, f"{bucket}/with_codes")
    assert scores == runs[1]["code_prediction"]


def test_faults_of_the_server_change_nothing(stages, object_store, bucket):
    faults = [
        object_store.fail(kind, times=4, after=after, seconds=0.5, matching=matching)
        for kind, after, matching in (
            ("busy", 3, "POST /upload"),
            ("cut", 20, "POST /upload"),
            ("slow", 0, "DELETE"),
            ("torn", 4, "alt=media"),
        )
    ]
    workdir = f"{bucket}/vqgan"
    for _ in range(2):  # The second start only restores and evaluates.
        assert loop.train(tiny_config("vqgan"), workdir) == stages[1]["vqgan"]
    assert all(fault.met for fault in faults)
    assert_equal(state_at(to_path(workdir), 4), state_at(stages[0] / "vqgan", 4))
    lines = map(json.loads, object_store.read(f"{workdir}/metrics.jsonl").splitlines())
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]


def test_a_bucket_that_fails_in_a_save_costs_that_save(stages, object_store, bucket, waits):
    workdir = f"{bucket}/vqgan"
    fault = object_store.fail("busy", times=1000, matching=r"checkpoints/4/\S*resumable")
    with pytest.raises(Exception, match="503") as caught:
        loop.train(tiny_config("vqgan"), workdir)
    assert fault.met
    assert isinstance(caught.value, OSError) or process.no_bucket(caught.value)
    assert saved_steps(to_path(workdir)) == [0, 2]
    object_store.faults.clear()
    loop.train(tiny_config("vqgan"), workdir)
    assert_equal(state_at(to_path(workdir), 4), state_at(stages[0] / "vqgan", 4))


def test_killed_runs_end_as_one_on_disk():
    # One of the kills is at the start, the others are in saves.
    options = ["--bucket", "--kills", "3", "--saves", "2", "--steps", "60"]
    found = json.loads(run_command(["benchmarks/faults.py"], *options))
    assert found["kills_survived"] == 3
    assert found["in_saves"] >= 1
    assert found["state_bytes_that_differ"] == 0
    assert found["metrics_of_every_step_once"]
