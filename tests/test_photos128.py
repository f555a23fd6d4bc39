"""The recipe of the shipped weights: its data, its stages, and its repetition."""

import importlib.util
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from launching import with_devices
from PIL import Image

from codeformer_jax.convert import read_about
from codeformer_jax.data.synthetic import SyntheticFaces, draw_group

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("photos128", ROOT / "tools" / "photos128.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_people_are_linked_through_others(recipe):
    similar = np.eye(5)
    for i, j in ((0, 3), (3, 4), (1, 2)):
        similar[i, j] = similar[j, i] = 0.7
    assert recipe.people_of(similar) == [0, 1, 1, 0, 0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of aligned faces, one of them twice, and one of group pictures."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("faces", "groups"):
        (root / name).mkdir()
    faces = SyntheticFaces("train", size=256, length=24, seed=0)
    for i in range(len(faces)):
        Image.fromarray(faces[i]["image"]).save(root / "faces" / f"{i}.png")
    Image.fromarray(faces[0]["image"]).save(root / "faces" / "twin.png")
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(root / "faces" / "nobody.png")
    for i in range(2):
        Image.fromarray(draw_group(i, 240, 400).image).save(root / "groups" / f"{i}.png")
    return root


def test_a_set_without_people_is_refused(recipe, folders, tmp_path):
    with pytest.raises(SystemExit, match=r"too few people \(1\) for two sets"):
        recipe.make_data([folders / "faces"], folders / "groups", tmp_path)
    assert not (tmp_path / "data.json").exists()


def test_data_hold_each_picture_once(recipe, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "SAME_PERSON", recipe.DUPLICATE)  # Drawn faces are alike.
    recipe.make_data([folders / "faces"], folders / "groups", tmp_path)
    note = json.loads((tmp_path / "data.json").read_text())
    reasons = {entry["name"]: entry["why"] for entry in note["dropped"]}
    assert reasons["faces_nobody"] == "no face was found"
    assert "duplicate" in reasons["faces_twin"]
    sets = {split: {path.name for path in (tmp_path / split).iterdir()} for split in note["images"]}
    assert not sets["train"] & sets["heldout"]
    assert {split: len(names) for split, names in sets.items()} == note["images"]
    assert sum(note["images"].values()) + len(reasons) == 24 + 2 + 2
    assert "groups_0.png" in sets["train"] | sets["heldout"]
    with Image.open(next((tmp_path / "train").glob("groups_*.png"))) as picture:
        assert picture.size == (recipe.SIDE, recipe.SIDE)


@pytest.mark.slow
def test_the_recipe_trains_resumes_and_repeats(recipe, folders, tmp_path, monkeypatch, capsys):
    """Two of its stages, the second from the first; test_configs.py builds the others."""
    monkeypatch.setattr(recipe, "STAGES", recipe.STAGES[:2])
    monkeypatch.setenv("XLA_FLAGS", with_devices(1)["XLA_FLAGS"])  # For its processes.
    work, again = tmp_path / "work", tmp_path / "again"

    def run(*options):
        words = ["photos128.py", "--short", "--work", str(work), *options]
        monkeypatch.setattr(sys, "argv", words)
        return recipe.main()

    # All drawn faces count as one person, so the sets are made here.
    data, faces = work / "data", sorted((folders / "faces").glob("?.png"))
    for split, names in (("train", faces[:6]), ("heldout", faces[6:])):
        (data / split).mkdir(parents=True)
        for path in names:
            shutil.copy(path, data / split)
    (data / "data.json").write_text('{"images": {"train": 6, "heldout": 4}}')
    assert run() == 0
    model, notes = work / "photos128.safetensors", work / "fingerprints.json"
    first = model.read_bytes()
    about = read_about(model)
    assert about["config"] == "configs/photos128.py:code_prediction,short"
    assert about.keys() == {"commit", "config", "data", "licence", "step"}
    model.unlink()
    shutil.rmtree(work / "code_prediction" / "checkpoints" / "4")
    assert run() == 0  # It resumes.
    assert model.read_bytes() == first
    capsys.readouterr()
    assert run("--repeat", str(again)) == 0
    assert capsys.readouterr().out.count("are equal") == 2
    notes.write_text(notes.read_text().replace('"vqgan": "', '"vqgan": "0'))
    assert run("--repeat", str(again)) == 1  # Trains nothing again.
    assert capsys.readouterr().out.count("DIFFER") == 1
