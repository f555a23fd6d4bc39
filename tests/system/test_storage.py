"""Paths that users give: the home folder, URLs, and names that checkpoints cannot have."""

import os
import sys

import numpy as np
import pytest
from tiny import tiny_config

from codeformer_jax import cli
from codeformer_jax.checkpoints.trained import load_trained
from codeformer_jax.data.folder import ImageFolder
from codeformer_jax.data.images import write_image
from codeformer_jax.data.sources import parse_source
from codeformer_jax.evaluate.run import evaluate_run
from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.train import loop


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("url", ["https://host/x", "hf://user/model", "C://run"])
def test_urls_but_of_buckets_are_refused_in_one_line_and_make_no_folder(home, url, capsys):
    with pytest.raises(ValueError, match=rf"^workdir={url} is a URL of another kind; expected"):
        loop.train(tiny_config("vqgan"), url)
    with pytest.raises(ValueError, match=rf"^workdir={url} is a URL"):
        evaluate_run(tiny_config("vqgan"), url)
    config = tiny_config("vqgan").unlock()
    config.init_from = url
    with pytest.raises(ValueError, match=rf"^init_from={url} is a URL"):
        loop.train(config.lock(), home / "run")
    with pytest.raises(SystemExit) as caught:
        cli.main(["restore", "face.png", "-o", url])
    assert caught.value.code == 2
    assert f"{url} is a URL" in capsys.readouterr().err
    assert not any(home.iterdir())


@pytest.mark.parametrize(("url", "package"), [("gs://b/run", "gcsfs"), ("s3://b/run", "s3fs")])
def test_a_bucket_without_its_client_names_the_extra(home, url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package}: pip install 'codef"):
        loop.train(tiny_config("vqgan"), url)
    assert not any(home.iterdir())


def test_a_run_in_an_s3_bucket_is_refused(home):
    pytest.importorskip("s3fs")
    with pytest.raises(ValueError, match="Orbax writes checkpoints to disks and to gs:// only"):
        loop.train(tiny_config("vqgan"), "s3://bucket/run")


def test_the_home_folder_is_meant_wherever_a_path_is_given(home):
    config = tiny_config("vqgan").unlock()
    config.init_from = "~/stage"
    config.loss.lpips = "~/lpips.safetensors"
    found = storage.local_config(config)
    assert (found.init_from, found.loss.lpips) == (f"{home}/stage", f"{home}/lpips.safetensors")
    assert config.init_from == "~/stage"
    assert storage.local_config(found) is found
    with pytest.raises(FileNotFoundError, match=f"{home}/stage does not exist"):
        loop.train(config.lock(), "~/run")
    with pytest.raises(FileNotFoundError, match=f"{home}/stage does not exist"):
        load_trained("~/stage")
    found = parse_source("2 * folder:~/faces + 1 * ~/more + 1 * tfds:~/made + 1 * array_record:~/*")
    assert [each.where for each in found] == [f"{home}/{x}" for x in ("faces", "more", "made", "*")]
    parsed = cli._parser().parse_args(["encode", "~/run", "~/codes"])
    assert (parsed.checkpoint, parsed.target) == (f"{home}/run", f"{home}/codes")
    assert not any(home.iterdir())


def test_commands_take_disks_and_buckets(home):
    pytest.importorskip("gcsfs")
    parsed = cli._parser().parse_args(["prepare", "~/faces", "gs://bucket/faces", "gs://made"])
    assert parsed.sources == [f"{home}/faces", "gs://bucket/faces"]


def test_a_folder_named_as_the_home_folder_stays_itself(home):
    (home / "inside").mkdir()
    os.chdir(home / "inside")
    with atomic_path(storage.to_path("./~/x")) as path:
        path.write_text("x")
    assert (home / "inside" / "~" / "x").exists()
    assert storage.to_path("") == storage.to_path(".")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lr=[1e-3]", r"lr=\[1e-3\]/run: checkpoints cannot be read from a path with \[ in it"),
        ("a\\b", r"with \\ in it; give another --workdir"),
        ("run*", r"with \* in it"),
        ("run?", r"with \? in it"),
        (os.fsdecode(b"a\xff"), "with a byte that is not UTF-8 in it"),
    ],
)
def test_names_that_checkpoints_cannot_have_are_refused_before_anything(tmp_path, name, told):
    with pytest.raises(ValueError, match=told):
        loop.train(tiny_config("vqgan"), tmp_path / name / "run")
    assert not any(tmp_path.iterdir())


def test_a_run_that_was_moved_to_such_a_name_is_not_taken_for_damaged(stages, tmp_path):
    (tmp_path / "[1]").symlink_to(stages[0] / "vqgan")
    with pytest.raises(ValueError, match=r"with \[ in it; give another --workdir, or rename"):
        load_trained(tmp_path / "[1]")


@pytest.mark.parametrize("name", ["plain", "ü b", "a]b", "x=1,y=2", "a#b%20"])
def test_other_names_are_left_alone(tmp_path, name):
    storage.check_workdir(tmp_path / name)


def test_folders_of_images_may_have_any_name(tmp_path):
    for name in ("lr=[1e-3]", "a\\b", "c*", os.fsdecode(b"a\xff")):
        write_image(tmp_path / name / "0.png", np.zeros((8, 8, 3), np.uint8))
        assert ImageFolder(tmp_path / name, 8, "all").names == ("0.png",)
