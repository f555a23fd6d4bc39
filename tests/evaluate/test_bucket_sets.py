"""Test sets, galleries and reports in a bucket."""

import json

import numpy as np
import pytest
from pairs import make, tree

from codeformer_jax import cli
from codeformer_jax.data.images import write_image
from codeformer_jax.evaluate import write_report
from codeformer_jax.evaluate.own_config import own_config
from codeformer_jax.evaluate.report import METRICS_FILE, REPORT_FILE
from codeformer_jax.evaluate.run import report_folder
from codeformer_jax.evaluate.testset import DamagedTestSet, open_testset
from codeformer_jax.system.storage import to_path


@pytest.fixture
def remote(faces, bucket):
    """The clean pictures in a bucket."""
    for name, content in tree(faces).items():
        (to_path(bucket) / "clean" / name).write_bytes(content)
    return f"{bucket}/clean"


def test_a_set_is_the_same_as_on_disk(remote, made, bucket, object_store):
    found = make(remote, f"{bucket}/set")
    assert found.sha256 == made[1].sha256
    files = tree(made[0])
    assert object_store.names(f"{bucket}/set") == sorted(files)
    assert all(object_store.read(f"{bucket}/set/{name}") == files[name] for name in files)
    opened = open_testset(f"{bucket}/set")
    assert opened.sha256 == made[1].sha256
    for index, pair in enumerate(made[1].manifest["pairs"]):
        assert opened[index]["name"] == pair["name"]
        np.testing.assert_array_equal(opened[index]["degraded"], made[1][index]["degraded"])


def test_a_set_is_replaced_when_asked(remote, bucket, object_store):
    target = f"{bucket}/set"
    make(remote, target)
    with pytest.raises(FileExistsError, match="--force to replace"):
        make(remote, target)
    fewer = make(remote, target, limit=1, force=True)
    assert len(open_testset(target)) == len(fewer) == 1
    # A killed call leaves pictures without a manifest.
    (to_path(target) / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="no manifest"):
        open_testset(target)
    make(remote, target, limit=1, force=True)
    (to_path(target) / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        make(remote, target, force=True)
    with pytest.raises(ValueError, match="are inside each other"):
        make(remote, f"{remote}/set")


def test_damage_is_named(remote, bucket):
    make(remote, f"{bucket}/set")
    files = to_path(f"{bucket}/set")
    (files / "lq" / "z.png").unlink()
    (files / "gt" / "z.png").write_bytes(b"")
    (files / ".more").write_text("")
    with pytest.raises(DamagedTestSet) as raised:
        open_testset(f"{bucket}/set")
    for line in (".more: not in the manifest", "gt/z.png: altered", "lq/z.png: missing"):
        assert f"\n  {line}" in str(raised.value)


def test_a_gallery_of_a_picture(bucket, object_store):
    write_image(f"{bucket}/face.png", np.full((40, 40, 3), 90, np.uint8))
    command = ["gallery", f"{bucket}/out.png", f"{bucket}/face.png", "-n", "1", "--size", "64"]
    assert cli.main(command) == 0
    assert object_store.names(bucket) == ["face.png", "out.png"]
    assert cli.main(command) == 2


def test_a_report(restoration, bucket, object_store):
    folder = report_folder(f"{bucket}/run/model.safetensors")
    assert str(folder) == f"{bucket}/run/eval"
    assert [str(file) for file in write_report(restoration, folder)] == [
        f"{folder}/{METRICS_FILE}",
        f"{folder}/{REPORT_FILE}",
    ]
    assert json.loads(object_store.read(f"{folder}/{METRICS_FILE}"))["means"]
    with pytest.raises(FileExistsError, match="holds the report of an earlier evaluation"):
        report_folder(f"{bucket}/run/model.safetensors")
    with pytest.raises(FileNotFoundError, match=f"{bucket}/none does not exist"):
        own_config(f"{bucket}/none")
