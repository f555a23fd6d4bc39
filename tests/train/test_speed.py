"""Clocks and counts of a run, and their metrics."""

import contextlib
import json
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from codeformer_jax.train import goodput
from codeformer_jax.train import speed as speed_module
from codeformer_jax.train.goodput import Clock
from codeformer_jax.train.speed import Speed, TimedStep, peak_tflops
from codeformer_jax.train.writer import LABEL_HEIGHT


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("TPU v2", 22.5),
        ("TPU v3", 61.5),
        ("TPU v4", 275.0),
        ("TPU v5 lite", 197.0),
        ("TPU v5p", 459.0),
        ("TPU v6 lite", 918.0),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 4090", 165.0),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("cpu", None),
    ],
)
def test_peak_of_known_devices(kind, tflops):
    assert peak_tflops(kind, None) == tflops
    assert peak_tflops(kind, 7.0) == 7.0


@pytest.fixture
def move(monkeypatch):
    """Replaces the modules' clock with one that the returned function moves by some seconds."""
    now = [0.0]
    clock = types.SimpleNamespace(time=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr(speed_module, "time", clock)
    monkeypatch.setattr(goodput, "time", clock)

    def move(seconds):
        now[0] += seconds

    return move


class Device:
    """A step's result, which is ready when the test says so."""

    def __init__(self):
        self._ready = threading.Event()

    def finish(self, speed):
        self._ready.set()
        speed._finished.result()

    def block_until_ready(self):
        assert self._ready.wait(timeout=60)


def test_time_goes_to_steps_waiting_or_elsewhere(move):
    clock = Clock("step")
    with contextlib.closing(Speed(clock, 8, peak=4e12)) as speed:
        for _ in range(4):
            with speed.waiting():
                move(0.5)
            speed.stepped(3e12, done := Device())
            move(1.5)
            done.finish(speed)
        with clock.during("save", jnp.zeros(())):
            move(100.0)
        assert speed.read(4) == {
            "images_per_second": 4.0,
            "step_seconds": 2.0,
            "data_wait_share": 0.25,
            "tflops_per_second": 1.5,
            "peak_share": 0.375,
        }
        # The next window is its own; steps of unknown cost leave the rate out.
        speed.stepped(0.0, ())
        speed.stepped(0.0, ())
        move(4.0)
        assert speed.read(2) == {
            "images_per_second": 4.0,
            "step_seconds": 2.0,
            "data_wait_share": 0.0,
        }


@pytest.mark.parametrize(("after", "share"), [(0.0, 0.75), (1.0, 0.5), (3.0, 0.0), (None, 0.0)])
def test_reading_while_a_step_is_under_way_is_no_waiting(move, after, share):
    """The step is done `after` seconds of the three in which a batch is read, or still not."""
    clock, done = Clock("step"), Device()
    with contextlib.closing(Speed(clock, 1, peak=None)) as speed:
        speed.stepped(0.0, done)
        move(1.0)
        with speed.waiting():
            for second in range(4):
                if second == after:
                    done.finish(speed)
                move(second < 3)
        assert speed.read(1)["data_wait_share"] == pytest.approx(share)
        done.finish(speed)


def test_each_variant_is_compiled_once_and_its_operations_counted():
    speed = Speed(Clock("step"), 1, peak=None)
    traced = []

    def step(state, frozen, inputs, key, phase):
        traced.append(phase["kind"].shape)
        return state + inputs @ inputs * phase["w"], key

    timed = TimedStep(jax.jit(step, donate_argnums=0), speed, devices=2)
    state, inputs, key = jnp.zeros((64, 64)), jnp.eye(64), jax.random.key(0)
    started = time.perf_counter()
    for w, size in ((1.0, 1), (0.5, 1), (2.0, 3)):
        state, _ = timed(state, {}, inputs, key, {"w": w, "kind": np.zeros(size)})
    np.testing.assert_allclose(state, 3.5 * np.eye(64))
    assert traced == [(1,), (3,)]
    elapsed = time.perf_counter() - started
    shown = speed.read(3)
    assert 0 < shown["compile_seconds"] <= elapsed
    speed.close()
    flops = shown["tflops_per_second"] * 1e12 * shown["step_seconds"]
    assert flops == pytest.approx(2 * 2 * 64**3, rel=0.1)


def test_runs_show_speed_rates_norms_and_codebook(stages):
    root, _ = stages
    always = {"images_per_second", "step_seconds", "data_wait_share", "tflops_per_second"}
    always |= {"learning_rate", "grad_norm_encoder", "perplexity", "dead_codes", "skipped"}
    gan = {"d_learning_rate", "grad_norm_discriminator", "adaptive_weight", "adaptive_ratio"}
    for stage, names in {
        "vqgan": {"grad_norm_generator", *gan},
        "code_prediction": {"grad_norm_transformer"},
        "restoration": {"grad_norm_transformer", "grad_norm_fusion", *gan},
    }.items():
        text = (root / stage / "metrics.jsonl").read_text()
        train = [line for line in map(json.loads, text.splitlines()) if "train/loss" in line]
        assert {f"train/{name}" for name in always | names} <= train[-1].keys()
        assert all(train[-1][f"train/{name}"] > 0 for name in always - {"skipped", "dead_codes"})
        assert all(0 <= line["train/data_wait_share"] <= 1 for line in train)
        assert train[0]["train/compile_seconds"] > 0
        assert "train/compile_seconds" not in train[-1]


def test_pictures_show_the_same_held_out_images_under_the_same_degradation(stages):
    root, _ = stages
    first, last = (
        np.asarray(Image.open(root / "restoration" / "images" / f"{step:08d}.png"))
        for step in (0, 4)
    )
    columns = [  # By label: degraded, restored at two weights, truth.
        np.array_equal(first[LABEL_HEIGHT:, x : x + 128], last[LABEL_HEIGHT:, x : x + 128])
        for x in range(0, first.shape[1], 128)
    ]
    assert columns == [True, False, False, True]
