"""Two processes of two devices each as one run, and how processes find each other."""

import contextlib
import json
import os
import signal
import time

import jax
import numpy as np
import pytest
from launching import VARIABLES, finish, launch
from linear import NAMES, linear_config, make_linear, relative_error, train_all

from codeformer_jax.checkpoints import digests
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.system import hosts, parallel
from codeformer_jax.train import loop

MESH = "data:2,fsdp:2"


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(made_once):
    """Folders of all tasks' runs on one device and on two processes, and what those printed."""

    def make(root):
        outputs = finish(
            launch("tests/system/worker.py", str(root / "two"), MESH, "{0}", "2", "{1}")
        )
        with pytest.MonkeyPatch.context() as patch:
            make_linear(patch.setattr)
            train_all(root / "one")
        return outputs

    root, outputs = made_once("hosts", make)
    return root / "one", root / "two", outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_like_one_device(runs, name):
    """Every loss and score of five steps; parameters, averaged and not, restored on one process.

    What starts from another run starts from the two processes' own.
    """
    one, two, _ = runs
    mine, theirs = lines(two / name), lines(one / name)
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    losses = ("loss", "l1", "codebook_loss", "feature", "cross_entropy", "d_real", "d_fake", "psnr")
    losses += ("mse", "bits_per_dim", "teacher_psnr")
    compared = 0
    for have, want in zip(mine, theirs, strict=True):
        for metric in want:
            if metric.split("/")[-1] in losses:
                np.testing.assert_allclose(have[metric], want[metric], rtol=1e-5, err_msg=metric)
                compared += 1
    assert compared > 2 * 5
    for step in saved_steps(two / name):
        folder = two / name / "checkpoints" / str(step)
        assert (folder / digests.DIGESTS_FILE).is_file()
        assert digests.fault(folder) is None
    have, want = load_trained(two / name), load_trained(one / name)
    assert have.step == want.step == 5
    for collection in want.variables:
        assert relative_error(have.variables[collection], want.variables[collection]) < 1e-5


@pytest.mark.slow
def test_only_the_first_process_writes(runs):
    one, two, outputs = runs
    for run in NAMES:
        names = [sorted(p.name for p in (root / run).iterdir()) for root in (one, two)]
        names = [[n for n in each if "tfevents" not in n] for each in names]
        assert names[0] == names[1]
        assert len(list((two / run).glob("*tfevents*"))) == 1
        steps = [line["step"] for line in lines(two / run) if "train/loss" in line]
        assert steps == [1, 2, 3, 4, 5]
    assert "step 5: " in outputs[0]
    assert "step 5: " not in outputs[1]


@pytest.mark.slow
def test_processes_that_differ_raise_on_each_of_them(runs):
    for output in runs[2]:
        assert "processes [1] differ from process 0 in: workdir. Give all the same" in output


@pytest.mark.slow
def test_a_run_that_diverges_ends_on_both_with_the_batches_of_each(runs):
    """Both leave at the same step, the checkpoint stays, each names the images that it had read."""
    _, two, outputs = runs
    workdir = two / "diverged"
    for output in outputs:
        assert "the 2 steps up to step 3 all had a non-finite loss or gradient" in output
        assert "have not changed since step 1" in output
        assert f"listed in {workdir}/skipped*.jsonl" in output
    assert saved_steps(workdir) == [0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(load_trained(workdir).variables))
    config = linear_config("vqvae")
    skipped = [
        [json.loads(line) for line in (workdir / name).read_text().splitlines()]
        for name in ("skipped.jsonl", "skipped-1.jsonl")
    ]
    assert [[line["step"] for line in each] for each in skipped] == [[2, 3], [2, 3]]
    for first, second in zip(*skipped, strict=True):
        stream = batches(
            open_source(config.data, "train"),
            batch_size=config.data.batch_size,
            seed=config.seed,
            start_step=first["step"] - 1,
        )
        with contextlib.closing(stream):
            batch = next(stream)
        assert first["index"] + second["index"] == batch["index"].tolist()
        assert first["name"] + second["name"] == batch["name"].tolist()
        assert "loss" in first["not_finite"]


@pytest.mark.slow
def test_sigterm_on_one_of_two_saves_on_both_and_damage_is_moved_once(tmp_path):
    """Uses the flags of train.py, with parameters sharded over both processes."""
    config = tmp_path / "config.py"
    config.write_text(
        "from linear import linear_config, make_linear\n"
        "def get_config():\n"
        "    make_linear()\n"
        "    config = linear_config('vqvae', mesh='fsdp:4').unlock()\n"
        "    config.steps = config.eval_every = config.checkpoint_every = 100_000\n"
        "    return config.lock()\n"
    )
    workdir = tmp_path / "run"
    arguments = (f"--config={config}", f"--workdir={workdir}")
    arguments += ("--coordinator={0}", "--processes=2", "--process={1}")
    processes = launch("train.py", *arguments)
    metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 200
    while not (metrics.exists() and '"train/loss"' in metrics.read_text()):
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            finish(processes)
            pytest.fail("no step was taken")
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes, 143)
    assert "interrupted and saved" in outputs[0]
    assert "interrupted and saved" not in outputs[1]
    (saved,) = saved_steps(workdir)[-1:]
    taken = [line["step"] for line in lines(workdir) if "train/loss" in line]
    assert saved == taken[-1] < 100_000
    assert load_trained(workdir).step == saved
    # Both see the damage, one moves it, and both go on from the checkpoint before.
    array = max((workdir / "checkpoints" / str(saved)).rglob("*"), key=lambda p: p.stat().st_size)
    array.write_bytes(bytes(array.stat().st_size))
    config.write_text(config.read_text().replace("100_000", "2"))
    outputs = finish(launch("train.py", *arguments))
    assert f"checkpoints/{saved} is damaged" in outputs[0]
    assert (workdir / "damaged" / str(saved)).is_dir()
    assert saved_steps(workdir) == [0, 2]
    with pytest.MonkeyPatch.context() as patch:
        make_linear(patch.setattr)
        config = linear_config("vqvae").unlock()
        config.steps = 4
        loop.train(config, workdir)
    assert saved_steps(workdir)[-1] == 4


@pytest.fixture
def started(monkeypatch):
    """Arguments of the calls of `jax.distributed.initialize`, which does nothing."""
    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: None)
    return calls


def test_flags_start_processes_whatever_the_environment_says(started, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    hosts.initialize("node1:1234", 2, 1)
    ((arguments, options),) = started
    assert arguments == ("node1:1234", 2, 1)
    assert options["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"JOB_COMPLETION_INDEX": "0"},
        {"JAX_COORDINATOR_ADDRESS": "a:1"},
    ],
)
def test_the_environment_starts_processes(started, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.initialize()
    ((arguments, options),) = started
    assert arguments == ()
    assert options.keys() == {"initialization_timeout", "heartbeat_timeout_seconds"}
    hosts.initialize(processes=1)
    assert len(started) == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"},  # In a batch script, without srun.
        {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_a_single_process_starts_nothing(started, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.initialize()
    assert started == []


@pytest.mark.parametrize(
    "arguments", [("a:1", 2, None), (None, 2, 0), ("a:1", 2, 2), ("a:1", 1, -1)]
)
def test_flags_that_do_not_fit_together_are_refused(started, arguments):
    with pytest.raises(ValueError, match=r"expected all three, e\.g\. --coordinator=10"):
        hosts.initialize(*arguments)
    assert started == []


@pytest.mark.parametrize("limits", [{"start_timeout": 0.5}, {"peer_timeout": 0.0}])
def test_limits_of_less_than_a_second_are_refused(started, limits):
    with pytest.raises(ValueError, match="must be at least 1 second"):
        hosts.initialize("node1:1234", 2, 1, **limits)
    assert started == []


def test_an_environment_that_jax_cannot_read_is_not_taken_for_one_process(started, monkeypatch):
    def refuse(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(ValueError, match=r"Kubernetes started several.*Pass --coordinator="):
        hosts.initialize()


def test_sigterm_keeps_its_action(started, monkeypatch):
    """JAX would catch it, and a run that has taken no step could not be ended by it."""
    before = signal.getsignal(signal.SIGTERM)

    def catch(*_, **__):
        signal.signal(signal.SIGTERM, lambda *_: None)

    monkeypatch.setattr(jax.distributed, "initialize", catch)
    hosts.initialize("a:1", 2, 0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_single_process_agrees_at_once():
    agreed = hosts.Agreement(parallel.make_mesh("data:-1"))
    assert [agreed(flag) for flag in (0, signal.SIGTERM, 0)] == [0, signal.SIGTERM, 0]
    hosts.check_same(config="a")
