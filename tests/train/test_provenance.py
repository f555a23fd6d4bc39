"""A resumed run notices changed data."""

import json
import logging
import os

import pytest
from recorded import encoded, noise, write_records
from tiny import tiny_vqvae

from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.data.folder import in_split
from codeformer_jax.data.images import write_image
from codeformer_jax.data.sources import open_heldout, open_source
from codeformer_jax.train import loop, provenance


@pytest.fixture
def faces(tmp_path):
    for seed in range(8):
        write_image(tmp_path / f"my faces/é{seed}.png", noise(seed, 32))
    return tmp_path / "my faces"


def config_of(path, **data):
    config = tiny_vqvae(steps=2).unlock()
    config.data.path = str(path)
    config.data.update({"cache": False, "heldout_fraction": 0.5} | data)
    return config


def described(config):
    return provenance.describe(
        train=open_source(config.data, "train"), heldout=open_heldout(config)
    )


@pytest.fixture
def workdir(tmp_path, faces):
    """A workdir as a run on the faces leaves it."""
    config, folder = config_of(faces), tmp_path / "run"
    provenance.write(described(config), folder)
    (folder / "config.json").write_text(config.to_json())
    return folder


def test_moved_data_are_the_same_data(workdir, faces):
    config = config_of(faces)
    provenance.check_unchanged(described(config), config, workdir)
    moved = faces.rename(faces.with_name("moved"))
    config = config_of(moved)
    provenance.check_unchanged(described(config), config, workdir)


def test_an_added_a_removed_and_a_renamed_image_are_reported(workdir, faces):
    config = config_of(faces)
    before = described(config)
    write_image(faces / "new.png", noise(9, 32))
    with pytest.raises(ValueError, match="the data are not what this run began with") as caught:
        provenance.check_unchanged(described(config), config, workdir)
    assert "had" in str(caught.value)
    assert f"remove {workdir}/data.json to resume" in str(caught.value)
    (faces / "new.png").unlink()
    provenance.check_unchanged(described(config), config, workdir)
    name = open_source(config.data, "train").names[0]
    (faces / name).rename(workdir / "away")
    then, now = before["train"][0]["examples"], before["train"][0]["examples"] - 1
    with pytest.raises(
        ValueError, match=rf"train: ImageFolder.* had {then} examples; now .* has {now}"
    ):
        provenance.check_unchanged(described(config), config, workdir)
    other = next(f"{i}.png" for i in range(99) if _trains(f"{i}.png"))
    (workdir / "away").rename(faces / other)
    with pytest.raises(ValueError, match=rf"had {then} examples; now .* has {then} different ones"):
        provenance.check_unchanged(described(config), config, workdir)


def test_an_image_overwritten_under_its_name_is_reported(workdir, faces, tmp_path):
    config = config_of(faces)
    image = faces / open_source(config.data, "train").names[0]
    content = image.read_bytes()
    write_image(image, noise(99, 40))
    with pytest.raises(ValueError, match=r"train: .* different ones"):
        provenance.check_unchanged(described(config), config, workdir)
    # A copy has other times.
    image.write_bytes(content)
    os.utime(image, (1, 1))
    provenance.check_unchanged(described(config), config, workdir)


def _trains(name):
    return in_split(name, "train", 0.5)


def test_settings_that_pick_other_images_are_a_warning(workdir, faces, caplog):
    config = config_of(faces, heldout_fraction=0.6)
    with caplog.at_level(logging.WARNING):
        provenance.check_unchanged(described(config), config, workdir)
    (record,) = caplog.records
    assert "the data are not what this run began with" in record.getMessage()
    assert "heldout: " in record.getMessage()


def test_parts_of_a_mixture_are_compared_separately(tmp_path, faces, workdir):
    write_records(tmp_path / "a.array_record", [encoded(noise(seed, 32)) for seed in range(20)])
    text = f"1 * {faces} + 2 * array_record:{tmp_path}/*.array_record"
    for cache in (False, True):
        config = config_of(text, cache=cache)
        provenance.write(described(config), workdir)
        (workdir / "config.json").write_text(config.to_json())
        provenance.check_unchanged(described(config), config, workdir)
    write_records(tmp_path / "a.array_record", [encoded(noise(seed, 32)) for seed in range(1, 21)])
    with pytest.raises(ValueError, match=r"Records\('array_record:") as caught:
        provenance.check_unchanged(described(config), config, workdir)
    assert "ImageFolder" not in str(caught.value)
    config = config_of(str(faces))
    (workdir / "config.json").write_text(config.to_json())
    with pytest.raises(ValueError, match="train: 2 sources then, 1 now"):
        provenance.check_unchanged(described(config), config, workdir)


def test_synthetic_faces_and_their_number(tmp_path):
    config = tiny_vqvae()
    first = described(config)
    assert first == described(config)
    config = config.unlock()
    config.data.synthetic_length += 1
    assert described(config)["train"] != first["train"]


@pytest.mark.parametrize("content", ["", "[]", '{"train": 3}', '{"train": [], "held": []}'])
def test_a_damaged_record_is_named(workdir, faces, content):
    (workdir / "data.json").write_text(content)
    config = config_of(faces)
    with pytest.raises(ValueError, match=r"data\.json is damaged .*; remove it to resume"):
        provenance.check_unchanged(described(config), config, workdir)
    assert (workdir / "data.json").read_text() == content


def test_a_run_stops_before_it_trains_on_other_data(tmp_path, faces):
    run = tmp_path / "whole"
    config = config_of(faces)
    config.steps = 0
    loop.train(config.lock(), run)
    recorded = json.loads((run / "data.json").read_text())
    assert recorded == described(config_of(faces))
    assert sum(recorded[split][0]["examples"] for split in ("train", "heldout")) == 8
    write_image(faces / "new.png", noise(9, 32))
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    with pytest.raises(ValueError, match=r"had \d examples; now .* has \d"):
        loop.train(config, run)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    (run / "data.json").unlink()
    loop.train(config, run)
    assert load_trained(run).step == 0
    assert json.loads((run / "data.json").read_text()) == described(config)
