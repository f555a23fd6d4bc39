"""Test sets as they are made: the same bytes from the same seed, nothing half made or lost."""

import errno
import hashlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import NAMES, SIZE, draw_picture, make, tree

from codeformer_jax import cli, degrade
from codeformer_jax.data.images import read_image, resize_image, write_image
from codeformer_jax.evaluate import make_testset
from codeformer_jax.evaluate.testset import open_testset


def test_the_manifest_says_what_was_drawn_and_hashes_every_file(made):
    manifest = made[1].manifest
    ranges = manifest["recipe"]["ranges"]
    assert ranges["blur_sigma"] == [1.0, 15.0]
    assert ranges["jpeg_quality"] == [30.0, 90.0]
    for pair in manifest["pairs"]:
        for half in ("lq", "gt"):
            data = (made[0] / half / pair["name"]).read_bytes()
            assert pair[half] == hashlib.sha256(data).hexdigest()
        drawn = pair["parameters"]
        assert {"sigma_x", "sigma_y", "theta", "small_size", "noise_sigma"} <= drawn.keys()
        assert 1 <= drawn["sigma_x"] <= 15
        assert 0 <= drawn["noise_sigma"] * 255 <= 20
        assert 30 <= drawn["jpeg_quality"] <= 90
        assert isinstance(drawn["jpeg_quality"], int)
    assert len({pair["parameters"]["sigma_x"] for pair in manifest["pairs"]}) == len(NAMES)


def test_the_same_seed_makes_the_same_bytes_and_another_others(made, faces, tmp_path):
    again = make(faces, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(made[0])
    other = make(faces, tmp_path / "other", seed=2**32 - 1)
    assert len({made[1].sha256, again.sha256, other.sha256}) == 2
    for name, data in tree(made[0] / "lq").items():
        assert (tmp_path / "other" / "lq" / name).read_bytes() != data
    assert tree(tmp_path / "other" / "gt") == tree(made[0] / "gt")


def test_pictures_that_are_added_change_no_other_pair(made, faces, tmp_path):
    more = shutil.copytree(faces, tmp_path / "more")
    draw_picture(more / "0 first.png", 9)
    draw_picture(more / "sub" / "last.png", 10)
    larger = make(more, tmp_path / "larger")
    before = {pair["name"]: pair for pair in made[1].manifest["pairs"]}
    after = {pair["name"]: pair for pair in larger.manifest["pairs"]}
    assert len(after) == len(before) + 2
    assert {name: after[name] for name in before} == before
    assert larger.sha256 != made[1].sha256
    few = make([more / "sub", more / "z.bmp"], tmp_path / "few", limit=3)
    assert [pair["name"] for pair in few.manifest["pairs"]] == [
        "deep/a b.png",
        "last.png",
        "z.png",
    ]
    assert few.manifest["pairs"][2] == before["z.png"]


def test_a_pair_is_the_picture_and_what_degrade_makes_of_it(made, faces):
    pairs = open_testset(made[0])
    recipe = degrade.Recipe.named("celeba-test")
    by_name = {name: file for file, name in NAMES.items()}
    for index, pair in enumerate(pairs.manifest["pairs"]):
        element = pairs[index]
        clean = resize_image(read_image(faces / by_name[pair["name"]]).pixels, SIZE)
        np.testing.assert_array_equal(element["image"], clean)
        key = jax.random.wrap_key_data(jnp.array(pair["key"], jnp.uint32), impl="threefry2x32")
        images = jnp.asarray(clean[None], jnp.float32) / 255
        degraded = jax.jit(degrade.degrade)(images, key[None], recipe)[0]
        off = np.abs(np.round(np.asarray(degraded) * 255) - element["degraded"])
        assert off.max() <= 1
        assert off.mean() < 1e-3  # Compiled a second time, it may round another way.


def test_the_manifests_parameters_make_the_degraded_pictures(faces, tmp_path, monkeypatch):
    # Without noise, which is the one thing that the parameters leave to the key.
    still = {**degrade.RECIPES["celeba-test"], "noise": (0.0, 0.0)}
    monkeypatch.setitem(degrade.RECIPES, "still", still)
    pairs = make(faces, tmp_path / "set", recipe="still")
    elements = [pairs[index] for index in range(len(pairs))]
    parameters = [pair["parameters"] for pair in pairs.manifest["pairs"]]
    drawn = [
        degrade.Parameters(**{name: value for name, value in p.items() if value is not None})
        for p in parameters
    ]
    stacked = jax.tree.map(lambda *x: jnp.array(x), *drawn)
    images = jnp.asarray(np.stack([e["image"] for e in elements]), jnp.float32) / 255
    degraded = jax.jit(degrade.apply)(images, stacked, jnp.zeros_like(images))
    stored = np.stack([e["degraded"] for e in elements])
    off = np.abs(np.round(np.asarray(degraded) * 255) - stored)
    assert off.max() <= 1
    assert off.mean() < 1e-3
    assert np.abs(stored - np.asarray(images) * 255).mean() > 5


def broken(folder):
    (folder / "torn.png").write_bytes((folder / "a b.png").read_bytes()[:-30])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.png").touch()
    draw_picture(folder / "tiny.png", 0, 15, 40)


def test_unreadable_pictures_are_all_named_and_nothing_is_written(faces, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    broken(folder)
    with pytest.raises(ValueError, match="cannot use 2 of the pictures") as caught:
        make(folder, tmp_path / "set")
    for line in (
        "empty.png: the file is empty",
        "text.jpg: not an image",
        "1 of 6 pictures are too small for --size 32, which takes a shorter side of at least 16",
        "theirs is 15 px. Remove the small ones",
    ):
        assert line in str(caught.value)
    for name in ("empty.png", "text.jpg", "tiny.png"):
        (folder / name).unlink()
    shutil.copy(folder / "torn.png", folder / "sub" / "0 torn too.png")
    # Those whose header is sound are found when they are decoded.
    with pytest.raises(ValueError, match=r"use 2 of.*\n.*0 torn too\.png.*\n.*/torn\.png"):
        make(folder, tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


def test_pictures_of_another_size_are_one_line_that_names_the_size_to_give(tmp_path):
    for index, side in enumerate((30, 24, 40)):
        draw_picture(tmp_path / "faces" / f"{index}.png", index, side, 48)
    with pytest.raises(ValueError, match="3 of 3 pictures are too small for --size 128") as caught:
        make(tmp_path / "faces", tmp_path / "set", size=128)
    assert "at least 64 px; theirs is 24 to 40 px. Give --size 24, or remove" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be within 0..4294967295, got -1"),
        ({"seed": 2**32}, "seed must be within"),
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"size": 20}, "20 pixels a side"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"recipe": "celeba"}, "no recipe is named 'celeba'; expected one of .*celeba-test"),
        ({"inputs": []}, "no pictures given"),
        ({"inputs": ["nowhere"]}, r"use 1 of the pictures(.*\n)+.*nowhere: no such file"),
        ({"inputs": ["empty"]}, "no images in 'empty'"),
        ({"inputs": ["faces", "more"]}, r"'faces/z\.bmp' and 'more/Z\.PNG' would both be 'Z\.png'"),
        ({"output": "faces"}, "are inside each other"),
        ({"output": "faces/set"}, "'faces/set' and the pictures in .* are inside each other"),
        ({"output": ".", "force": True}, "are inside each other"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(
    faces, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(faces, "faces")
    (tmp_path / "empty").mkdir()
    draw_picture(tmp_path / "more" / "Z.PNG", 0)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=message):
        make(**{"inputs": ["faces"], "output": "set", **options})
    assert tree(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "faces", "more"]


def test_nothing_is_replaced_without_force_and_only_a_test_set_with_it(faces, copied, tmp_path):
    before = tree(copied)
    with pytest.raises(FileExistsError, match="copy' exists; give another folder, or --force"):
        make(faces, copied, seed=4)
    assert tree(copied) == before
    (copied / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds other files than those of a test set"):
        make(faces, copied, seed=4, force=True)
    (copied / "thesis.tex").unlink()
    assert tree(copied) == before
    (copied / "lq" / "z.png").unlink()  # A damaged set may be replaced as well.
    made = make(faces, copied, seed=4, force=True)
    assert open_testset(copied).sha256 == made.sha256
    (tmp_path / "empty").mkdir()
    make(faces, tmp_path / "empty", seed=4)
    assert tree(tmp_path / "empty") == tree(copied)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="holds other files"):
        make(faces, tmp_path / "file", force=True)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_set_and_no_new_one(faces, copied, monkeypatch, error):
    before, written = tree(copied), []

    def fail_later(path, pixels):
        written.append(path)
        if len(written) == 5:
            raise error
        write_image(path, pixels)

    monkeypatch.setattr(make_testset, "write_image", fail_later)
    for output, force in ((copied, True), (copied.parent / "new", False)):
        written.clear()
        with pytest.raises(type(error)):
            make(faces, output, seed=4, force=force)
        assert len(written) >= 5
    assert tree(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]


def test_the_command_makes_and_verifies(made, faces, tmp_path, capsys):
    output = str(tmp_path / "set")
    arguments = ["testset", str(faces), output, "--seed", "3", "--size", "32"]
    assert cli.main(arguments) == 0
    facts = "4 pairs of 32x32 px, recipe celeba-test, seed 3"
    digest = f"SHA-256 {made[1].sha256}\n"
    assert capsys.readouterr().out == f"{output}: {facts}\n{digest}"
    assert tree(tmp_path / "set") == tree(made[0])
    assert cli.main(["testset", "--verify", output]) == 0
    verified = f"{output}: {facts}; every file agrees with the manifest\n{digest}"
    assert capsys.readouterr().out == verified
    assert cli.main(arguments) == 2
    assert "--force to replace the test set there" in capsys.readouterr().err
    shutil.copy(tmp_path / "set" / "lq" / "z.png", tmp_path / "set" / "gt" / "z.png")
    assert cli.main(["testset", "--verify", output]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n  gt/z.png: altered: its SHA-256 differs\n")
    small = [*arguments, "--force", "--limit", "1", "--recipe", "small"]
    assert cli.main(small) == 0
    assert "1 pair of 32x32 px, recipe small, seed 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["faces"], "give the pictures and, last,"), (["--verify", "a", "b"], "takes one test set")],
)
def test_the_commands_paths_are_counted(arguments, message, capsys):
    assert cli.main(["testset", *arguments]) == 2
    assert message in capsys.readouterr().err
