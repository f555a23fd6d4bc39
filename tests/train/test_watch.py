"""Non-finite batches: the state does not change and the run reports them."""

import contextlib
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn_state
from tiny import tiny_config, tiny_vqvae

from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.checkpoints.workdir import saved_steps
from codeformer_jax.data.pipeline import batches
from codeformer_jax.data.sources import open_source
from codeformer_jax.data.synthetic import SyntheticFaces
from codeformer_jax.system.mirror import Mirror
from codeformer_jax.tasks import make_task
from codeformer_jax.tasks.vqvae import VQVAETask
from codeformer_jax.train import loop
from codeformer_jax.train.watch import Diverged, Watch


@pytest.fixture(scope="module")
def started():
    """Task, its compiled step, a state after one step, a good batch."""
    task = make_task(tiny_config("vqgan"))
    source = SyntheticFaces("train", 32, 4)
    pixels = np.stack([source[i]["image"] for i in range(4)])
    images = pixels.astype(np.float32) / 127.5 - 1
    state = drawn_state(task, pixels)
    step = jax.jit(task.train_step, donate_argnums=0)
    state, _ = step(state, {}, images, jax.random.key(1), task.phase(0))
    return task, step, state, images


def copied(state):
    return jax.tree.map(jnp.copy, state)


def differing(before, after):
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {jax.tree_util.keystr(path) for (path, a), b in pairs if np.any(a != b)}


def test_a_non_finite_batch_changes_nothing_and_donates_all(started):
    task, step, state, images = started
    bad = images.copy()
    bad[2, 5, 7, 1] = np.nan
    given = copied(state)
    after, metrics = step(given, {}, bad, jax.random.key(2), task.phase(1))
    assert differing(state, after) == {".step", ".skipped", ".skipped_in_row"}
    assert (int(after.step), int(after.skipped), int(after.skipped_in_row)) == (2, 1, 1)
    assert metrics["skipped"] == metrics["skipped_in_row"] == metrics["skipped_total"] == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))

    twice, _ = step(copied(after), {}, bad, jax.random.key(3), task.phase(2))
    assert int(twice.skipped_in_row) == 2
    # A good batch goes on from the same weights and ends the stretch.
    good, metrics = step(twice, {}, images, jax.random.key(4), task.phase(3))
    assert (int(good.step), int(good.skipped), int(good.skipped_in_row)) == (4, 2, 0)
    assert metrics["skipped"] == 0
    assert metrics["skipped_total"] == 2
    changed = differing(state, good)
    for part in (".params", ".ema_params", ".opt_state", ".collections", ".discriminator.params"):
        assert any(name.startswith(part) for name in changed), part


def poisoned(bad_steps):
    """`train_step` of a VQ-VAE whose images are not finite at these steps (counted from 0)."""
    original = VQVAETask.train_step

    def train_step(self, state, frozen, images, key, phase):
        bad = jnp.isin(state.step, jnp.asarray(bad_steps))
        images = images.astype(jnp.float32) / 127.5 - 1.0
        images = images + jnp.where(bad, jnp.nan, 0.0)
        return original(self, state, frozen, images, key, phase)

    return train_step


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_skipped_batches_are_named_and_too_many_in_a_row_stop_the_run(
    tmp_path, monkeypatch, caplog
):
    config = tiny_vqvae(steps=12).unlock()
    config.log_every = 3  # Fetched rarely: names wait until then.
    config.eval_every = config.checkpoint_every = 4
    config.max_skipped = 3
    monkeypatch.setattr(VQVAETask, "train_step", poisoned([1, 5, 6, 7]))
    workdir = tmp_path / "run"
    with pytest.raises(Diverged, match=r"3 steps up to step 8 .* since step 5 .*skipped\.jsonl"):
        loop.train(config, workdir)
    assert saved_steps(workdir)[-1] == 8
    trained = load_trained(workdir).variables
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trained))

    skipped = lines(workdir / "skipped.jsonl")
    assert [line["step"] for line in skipped] == [2, 6, 7, 8]
    assert all({"loss", "grad_norm_encoder"} <= set(line["not_finite"]) for line in skipped)
    # The names are those of the pipeline's batches of these steps.
    source = open_source(config.data, "train")
    for line in skipped:
        stream = batches(source, batch_size=4, seed=config.seed, start_step=line["step"] - 1)
        with contextlib.closing(stream):
            batch = next(stream)
        assert line["index"] == batch["index"].tolist()
        assert line["name"] == batch["name"].tolist()
    train = [line for line in lines(workdir / "metrics.jsonl") if "train/loss" in line]
    assert [line["step"] for line in train] == [3, 6, 9]
    assert [line["train/skipped"] for line in train] == [1, 1, 2]
    assert [line["train/skipped_in_row"] for line in train] == [1, 1, 3]
    assert [line["train/skipped_total"] for line in train] == [1, 2, 4]
    # Means are those of the steps that were taken.
    assert all(np.isfinite(line["train/loss"]) for line in train)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([text for text in warned if "not finite" in text]) == 1

    # With a higher limit it resumes from the checkpoint, in the middle of the bad steps.
    config.max_skipped = 4
    loop.train(config, workdir)
    assert load_trained(workdir).step == 12
    train = [line for line in lines(workdir / "metrics.jsonl") if "train/loss" in line]
    assert train[-1]["train/skipped_in_row"] == 0
    assert train[-1]["train/skipped_total"] == 4


def test_a_resumed_run_removes_the_lines_of_steps_that_it_repeats(tmp_path):
    path = tmp_path / "skipped.jsonl"
    path.write_text('{"step": 3}\n{"step": 7}\n{"step": 8, "na')
    Watch(Mirror(tmp_path), 5, 10)
    assert lines(path) == [{"step": 3}]


def test_an_impossible_limit_is_refused(tmp_path):
    config = tiny_config("vqgan").unlock()
    config.max_skipped = 0
    with pytest.raises(ValueError, match=r"max_skipped=0 must be .* at least 1"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
