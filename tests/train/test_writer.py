"""Metrics files and pictures."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tiny import tiny_config

from codeformer_jax.system.atomic import keep_lines
from codeformer_jax.system.mirror import Mirror
from codeformer_jax.train.writer import LABEL_HEIGHT, Writer, draw_panels


def test_panels_stand_side_by_side_under_their_labels():
    black, white = np.full((2, 32, 32, 3), -1.0), np.full((2, 32, 32, 3), 3.0)
    picture = draw_panels({"input": black, "output": white}, rows=1)
    assert picture.shape == (LABEL_HEIGHT + 128, 256, 3)
    assert picture.dtype == np.uint8
    assert picture[LABEL_HEIGHT:, :128].max() == 0
    assert picture[LABEL_HEIGHT:, 128:].min() == 255
    assert picture[:LABEL_HEIGHT].min() < 255


def test_lines_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    entries = [{"step": s, f"{kind}/loss": 1} for s in (1, 2, 3) for kind in ("train", "eval")]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 4, "lo')
    assert keep_lines(path, lambda x: x["step"] < 3) == entries[:4]
    assert [json.loads(line) for line in path.read_text().splitlines()] == entries[:4]
    assert keep_lines(tmp_path / "none", bool) == []
    assert not (tmp_path / "none").exists()


def shown_by_tensorboard(workdir):
    """(tag, step) -> values, without those that a later writer's start purges."""
    shown, files = {}, sorted(workdir.glob("*tfevents*"), key=lambda p: p.stat().st_mtime_ns)
    for path in files:
        data, at = path.read_bytes(), 0
        while at < len(data):  # Length, its checksum, the event, its checksum.
            (length,) = np.frombuffer(data[at : at + 8], "<u8")
            event = Event.FromString(data[at + 12 : at + 12 + int(length)])
            at += int(length) + 16
            if event.session_log.status == event.session_log.START:
                shown = {key: x for key, x in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown.setdefault((value.tag, event.step), []).append(value.simple_value)
    return shown


@pytest.mark.parametrize("killed_at", [2, 3])
def test_a_resumed_run_shows_every_step_once(tmp_path, killed_at):
    config = tiny_config("vqgan", steps=4)

    def write(start, stop):
        writer = Writer(
            Mirror(tmp_path), start, config, lambda step, fetched: {"images_per_second": 1.0}
        )
        for step in range(start, stop + 1):
            if step > start:
                metrics = {"loss": jnp.float32(10 * start + step), "odd": jnp.float32(np.nan)}
                writer.train_metrics(step, metrics)
            if step % 2 == 0:
                image = np.zeros((1, 8, 8, 3), np.float32)
                writer.eval_metrics(step, {"psnr": float(step)}, {"truth": image})
        writer.close()

    write(0, killed_at)
    (first,) = tmp_path.glob("*tfevents*")
    first.rename(f"{first}.first")  # Names have the second: the next one would overwrite it.
    write(2, 4)
    shown = shown_by_tensorboard(tmp_path)
    assert {k: v for k, v in shown.items() if k[0] == "train/loss"} == {
        ("train/loss", step): [value] for step, value in ((1, 1), (2, 2), (3, 23), (4, 24))
    }
    assert {k: v for k, v in shown.items() if k[0] == "eval/psnr"} == {
        ("eval/psnr", step): [step] for step in (0, 2, 4)
    }
    assert np.isnan(shown["train/odd", 2]).all()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "train/loss" in x] == [1, 2, 3, 4]
