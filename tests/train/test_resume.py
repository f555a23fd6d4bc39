"""A run that is stopped, killed or finds damaged files ends like an undisturbed one."""

import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from linear import ONE_FAST, PREVIOUS, linear_config
from states import assert_equal, leaves, state_at
from tiny import tiny_config, tiny_vqvae

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.recover import move_damaged, read_newest
from codeformer_jax.checkpoints.saving import Checkpoints
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.checkpoints.workdir import abstract_state, saved_steps
from codeformer_jax.tasks import BestScore, make_task
from codeformer_jax.tasks.state import TrainState
from codeformer_jax.train import loop
from codeformer_jax.train.start import prepare

TESTS = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def abstract():
    """Shapes of the state of `stages`' vqgan."""
    config = tiny_config("vqgan")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        abstract_state(make_task(config), config),
    )


@pytest.fixture
def run(stages, tmp_path):
    """A finished run of four steps, with the checkpoints 2 and 4 among others."""
    return shutil.copytree(stages[0] / "vqgan", tmp_path / "run")


def trained_steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "train/loss" in entry]


def largest_file(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(checkpoint):
    path = largest_file(checkpoint / "default" / "ocdbt.process_0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(checkpoint):
    path = largest_file(checkpoint / "default" / "ocdbt.process_0")
    path.write_bytes(bytes(path.stat().st_size))


def remove_a_file(checkpoint):
    (checkpoint / "default" / "manifest.ocdbt").unlink()


def exchange(checkpoint):
    """A state of the same shapes, which Orbax restores without complaint."""
    shutil.rmtree(checkpoint / "default")
    shutil.copytree(checkpoint.parent / "2" / "default", checkpoint / "default")
    assert int(state_at(checkpoint.parents[1], 4)["step"]) == 2


def spoil_the_scores(checkpoint):
    (checkpoint / "metrics" / "metrics").write_bytes(b'{"psnr"')


def spoil_the_digests(checkpoint):
    (checkpoint / digests.DIGESTS_FILE).write_bytes(b"")


DAMAGES = [
    *(truncate, zero, remove_a_file, exchange),
    *(spoil_the_scores, spoil_the_digests),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_taken(run, abstract, damage, caplog):
    before = state_at(run, 2)
    damage(run / "checkpoints" / "4")
    found = sorted(run.rglob("*"))
    state, faults = read_newest(run, abstract)
    assert int(state.step) == 2
    assert_equal(state, before)
    assert sorted(run.rglob("*")) == found
    move_damaged(run, faults, 2)
    assert "checkpoints/4 is damaged: " in caplog.text
    assert "resumes from step 2" in caplog.text
    assert (run / "damaged" / "4" / "default").is_dir()
    assert 4 not in saved_steps(run)
    # The rest is in order for the saves to come.
    with Checkpoints(run, BestScore("psnr"))._manager as manager:
        assert 4 not in manager.all_steps()


def test_a_checkpoint_without_digests_counts_as_whole(run, abstract):
    """Early versions wrote none."""
    (run / "checkpoints" / "4" / digests.DIGESTS_FILE).unlink()
    state, faults = read_newest(run, abstract)
    assert (int(state.step), faults) == (4, {})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_not_loaded(run, damage, caplog):
    damage(run / "checkpoints" / "4")
    found = sorted(run.rglob("*"))
    assert load_trained(run).step == 2
    assert "checkpoints/4 is damaged, the one before is taken" in caplog.text
    with pytest.raises(ValueError, match=r"checkpoints/4 \(4\) is damaged: .*name another step"):
        load_trained(run, 4)
    assert sorted(run.rglob("*")) == found


def test_a_damaged_best_checkpoint_is_not_replaced_in_silence(run):
    best = load_trained(run, "best").step
    zero(run / "checkpoints" / str(best))
    with pytest.raises(ValueError, match=rf"checkpoints/{best} \(best\) is damaged"):
        load_trained(run, "best")


def test_where_all_are_damaged_nothing_is_changed(run, abstract):
    for step in saved_steps(run):
        zero(run / "checkpoints" / str(step))
    found = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=r"every checkpoint of .* is damaged:\n  step 4: default"):
        read_newest(run, abstract)
    with pytest.raises(ValueError, match=r"every checkpoint of .* is damaged:\n  step 4: default"):
        load_trained(run)
    assert sorted(run.rglob("*")) == found


def test_a_state_of_another_optimizer_is_not_damage(run, abstract):
    found = sorted(run.rglob("*"))
    halves = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16", sharding=x.sharding), abstract.params
    )
    with pytest.raises(ValueError, match=r"another model or optimizer(?s:.*)bfloat16.* expected"):
        read_newest(run, abstract.replace(params=halves))
    with pytest.raises(ValueError, match=r"opt_state.* in the checkpoint, none expected"):
        read_newest(run, abstract.replace(opt_state=()))
    assert sorted(run.rglob("*")) == found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("task", "restoration"), ("model.codebook_size", 32), ("model.ema_decay", None)),
        *(("model.quantizer", "gumbel"), ("model.norm_groups", 2), ("discriminator.ndf", 8)),
        *(("discriminator.n_layers", 2),),
    ],
)
def test_settings_of_another_model_are_refused(stages, name, value):
    config = tiny_config("vqgan").unlock()
    task = make_task(config)
    config.update_from_flattened_dict({name: value})
    with pytest.raises(ValueError, match=rf"run of another model(?s:.*)  {name}: .* -> {value}"):
        prepare(task, config, stages[0] / "vqgan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("model.dtype", "bfloat16"), ("steps", 9), ("data.workers", 2), ("data.batch_size", 8)),
        *(("model.remat", "full"), ("model.restart_below", 0.2), ("model.kl_weight", 1e-8)),
        *(("model.straight_through", False), ("model.temperature_steps", 9)),
        *(("optimizer.clip_norm", 0.5), ("ema_decay", 0.5), ("seed", 1), ("mesh", "data:2")),
    ],
)
def test_other_changed_settings_are_shown(stages, name, value, caplog):
    config = tiny_config("vqgan").unlock()
    config.update_from_flattened_dict({name: value})
    with caplog.at_level(logging.WARNING):
        assert prepare(make_task(config), config, stages[0] / "vqgan").resuming
    assert f"  {name}: " in caplog.text
    assert f" -> {value}" in caplog.text


def small_state(step):
    zeros = {"w": np.zeros(3, np.float32)}
    counts = {"skipped": np.int32(0), "skipped_in_row": np.int32(0)}
    return TrainState(np.int32(step), zeros, zeros, zeros, {}, np.zeros(2, np.float32), **counts)


def test_two_latest_and_the_best_are_kept_each_with_digests(tmp_path):
    checkpoints = Checkpoints(tmp_path, BestScore("psnr"))
    for step, psnr in enumerate((10.0, 12.0, 11.0, None, 9.0)):
        checkpoints.save(small_state(step), psnr and {"psnr": psnr})
    checkpoints.close()
    assert saved_steps(tmp_path) == [1, 3, 4]
    for step in (1, 3, 4):
        folder = tmp_path / "checkpoints" / str(step)
        assert (folder / digests.DIGESTS_FILE).is_file()
        assert digests.fault(folder) is None


def test_a_step_saved_before_its_evaluation_gets_its_scores(tmp_path):
    checkpoints = Checkpoints(tmp_path, BestScore("psnr"))
    checkpoints.save(small_state(0), {"psnr": 10.0})
    checkpoints.save(small_state(1), None)
    checkpoints.save(small_state(1), {"psnr": 11.0})
    checkpoints.save(small_state(1), {"psnr": 1.0})  # Those that it has stay.
    checkpoints.save(small_state(2), {"psnr": 9.0})
    checkpoints.save(small_state(3), {"psnr": 8.0})
    checkpoints.save(small_state(4), {"psnr": 7.0})
    checkpoints.close()
    assert saved_steps(tmp_path) == [1, 3, 4]
    folder = tmp_path / "checkpoints" / "1"
    assert json.loads((folder / "metrics" / "metrics").read_text()) == {"psnr": 11.0}
    assert (folder / digests.DIGESTS_FILE).is_file()
    assert digests.fault(folder) is None


# Signals itself, its process group, or its workers after a step.
CHILD = """
import multiprocessing, os, pathlib, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from codeformer_jax.train import loop
from codeformer_jax.train.writer import Writer
from states import assert_equal, leaves, state_at
from tiny import tiny_vqvae

def main(workdir, last, kill, workers):
    original = Writer.train_metrics

    def stop(self, step, metrics):
        original(self, step, metrics)
        if step == int(last):
            children = [str(child.pid) for child in multiprocessing.active_children()]
            pathlib.Path(workdir + ".children").write_text(" ".join(children))
            if kill == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if kill == "workers":
                return [child.kill() for child in multiprocessing.active_children()]
            os.killpg(os.getpgid(0), signal.SIGTERM)

    Writer.train_metrics = stop
    config = tiny_vqvae(1000 if kill == "workers" else 4).unlock()
    config.data.workers = int(workers)
    loop.train(config.lock(), workdir)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def train_in_child(workdir, last, how, workers):
    script = workdir.parent / "child.py"
    script.write_text(CHILD.format(tests=str(TESTS), root=str(TESTS.parent)))
    command = [sys.executable, script, workdir, str(last), how, str(workers)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300, start_new_session=True
    )
    children = pathlib.Path(f"{workdir}.children").read_text().split()
    assert len(children) == workers
    return done, children


def running(pid):
    """Returns whether a process exists and is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_sigterm_kill_damage_and_other_workers_leave_no_trace(tmp_path, caplog):
    """Stops a run after step 1, kills it after step 3 and damages its newest checkpoint."""
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    loop.train(tiny_vqvae(), whole)
    done, _ = train_in_child(workdir, 1, "term", workers=1)
    assert done.returncode == 143, done.stderr
    assert "interrupted and saved; the same command resumes from step 1" in done.stderr
    assert saved_steps(workdir) == [0, 1]
    done, children = train_in_child(workdir, 3, "kill", workers=1)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 20
    while any(map(running, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(running, children))
    newest = saved_steps(workdir)[-1]
    assert newest in (1, 2)  # The save of step 2 may have been under way.
    zero(workdir / "checkpoints" / str(newest))
    loop.train(tiny_vqvae(), workdir)
    assert f"checkpoints/{newest} is damaged" in caplog.text
    assert trained_steps(workdir) == [1, 2, 3, 4]
    assert_equal(state_at(workdir, 4), state_at(whole, 4))
    assert digests.fault(workdir / "checkpoints" / "4") is None


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_its_state_saved(tmp_path):
    done, _ = train_in_child(tmp_path / "run", 1, "workers", workers=1)
    assert done.returncode == 1
    assert "ChildProcessError: data.workers: a worker was killed" in done.stderr
    taken = trained_steps(tmp_path / "run")[-1]
    assert saved_steps(tmp_path / "run")[-1] == taken < 1000


@pytest.mark.parametrize("name", ONE_FAST)
def test_every_task_resumes_bit_for_bit(stages, tmp_path, name):
    """They resume after two of four steps, with noise, dropout and restarts."""
    previous = stages[0] / PREVIOUS[name] if name in PREVIOUS else None
    if name == "pixelcnn_prior":
        previous = tmp_path / "vqvae"
        loop.train(linear_config("vqvae"), previous)
    config = linear_config(name, previous and str(previous)).unlock()
    config.update(steps=4, eval_every=4, checkpoint_every=2)
    if name == "gpt_prior":
        config.gpt.dropout = 0.1
    whole, run = tmp_path / "whole", tmp_path / "run"
    loop.train(config, whole)
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "4")
    loop.train(config, run)
    assert trained_steps(run) == [1, 2, 3, 4]
    assert_equal(state_at(run, 4), state_at(whole, 4))
    moved = leaves(state_at(whole, 4)["params"]), leaves(state_at(whole, 2)["params"])
    assert any((moved[0][name] != moved[1][name]).any() for name in moved[0])


@pytest.mark.slow
def test_on_other_devices_a_run_resumes_within_rounding(run, stages):
    """The moments of the keys' biases in attention are excluded.

    Softmax does not see these biases, so that their gradient is nothing but rounding.
    """
    shutil.rmtree(run / "checkpoints" / "4")
    config = tiny_config("vqgan").unlock()
    config.mesh = "data:2"
    loop.train(config.lock(), run)
    ours, theirs = leaves(state_at(run, 4)), leaves(state_at(stages[0] / "vqgan", 4))
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        if not (name.startswith("opt_state") and name.endswith("/k/bias")):
            error = np.linalg.norm(np.subtract(ours[name], wanted, dtype=np.float64))
            assert error <= 1e-4 * np.linalg.norm(wanted.astype(np.float64)), name
