"""Test sets as they are read: every kind of damage found, scores of the stored pairs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pairs import NAMES, SIZE, tree

from codeformer_jax.data.images import read_image, write_image
from codeformer_jax.evaluate import evaluate
from codeformer_jax.evaluate.testset import DamagedTestSet, content_hash, open_testset


def rewrite(folder, change, sign=True):
    """Changes the manifest and, as a forger would, its hash."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if sign:
        manifest["sha256"] = content_hash(manifest)
    path.write_text(json.dumps(manifest))


def test_the_set_is_complete_and_verified(made):
    folder, pairs = made
    assert sorted(tree(folder)) == sorted(
        ["manifest.json", *(f"{half}/{name}" for half in ("lq", "gt") for name in NAMES.values())]
    )
    opened = open_testset(folder)
    assert opened.manifest == pairs.manifest
    assert str(opened) == "4 pairs of 32x32 px, recipe celeba-test, seed 3"
    assert [opened[i]["name"] for i in range(len(opened))] == sorted(NAMES.values())
    assert [p.name for p in folder.parent.iterdir()] == ["one"]
    with pytest.raises(IndexError):
        opened[4]


DAMAGES = {
    "flipped": (
        lambda d: flip(d / "lq" / "z.png"),
        "lq/z.png: altered: its SHA-256 differs",
    ),
    "deleted": (lambda d: (d / "gt" / "sub" / "\u00fc.png").unlink(), "gt/sub/\u00fc.png: missing"),
    "added": (lambda d: (d / "gt" / "extra.png").touch(), "gt/extra.png: not in the manifest"),
    "hidden": (lambda d: (d / ".DS_Store").touch(), ".DS_Store: not in the manifest"),
    "swapped": (
        lambda d: shutil.copy(d / "gt" / "z.png", d / "lq" / "z.png"),
        "lq/z.png: altered",
    ),
    "seed": (lambda d: rewrite(d, lambda m: m.update(seed=4), sign=False), "was changed"),
    "drawn": (
        lambda d: rewrite(d, lambda m: m["pairs"][0]["parameters"].update(theta=0.0), sign=False),
        "was changed: its sha256 is",
    ),
    "hash": (lambda d: rewrite(d, lambda m: m.update(sha256=7), sign=False), "was changed"),
    "text": (lambda d: (d / "manifest.json").write_bytes(b'{"a": \xff'), "is not JSON"),
    "list": (lambda d: (d / "manifest.json").write_text("[]"), "is not the manifest of a test set"),
    "format": (
        lambda d: rewrite(d, lambda m: m.update(format="another")),
        "its format is not 'codeformer-jax test set 1'",
    ),
    "outside": (
        lambda d: rewrite(d, lambda m: m["pairs"][0].update(name="../../outside.png")),
        "gt/../../outside.png: missing",
    ),
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(copied, damage):
    change, message = DAMAGES[damage]
    write_image(copied.parent / "outside.png", np.zeros((SIZE, SIZE, 3), np.uint8))
    open_testset(copied)
    change(copied)
    before = tree(copied)
    with pytest.raises(DamagedTestSet) as caught:
        open_testset(copied)
    assert message in str(caught.value)
    assert str(copied) in str(caught.value)
    assert tree(copied) == before


def test_many_damages_are_counted(copied):
    for index in range(30):
        (copied / f"{index}.png").touch()
    with pytest.raises(DamagedTestSet, match=r"\n  0\.png: not in .*(\n.*)*\n  and 10 more$"):
        open_testset(copied)


def test_other_libraries_that_make_the_same_files_make_the_same_set(copied, made):
    rewrite(copied, lambda m: m.update(made_with={"jax": "99"}), sign=False)
    assert open_testset(copied).sha256 == made[1].sha256


@pytest.mark.parametrize(("name", "what"), [("nowhere", "no such folder"), ("", "no manifest")])
def test_what_is_no_test_set_is_said(tmp_path, name, what):
    with pytest.raises(FileNotFoundError, match=f"is not a test set: .*{what}"):
        open_testset(tmp_path / name)


def test_scores_are_those_of_the_stored_pairs(made, codeformer, vqgan):
    pairs = open_testset(made[0])
    options = {"batch_size": 3}
    found = evaluate(*codeformer, pairs, teacher=vqgan, weights=(0, 1), **options)
    truth, lq = (
        np.stack([read_image(made[0] / half / name).pixels for name in sorted(NAMES.values())])
        for half in ("gt", "lq")
    )
    module, variables = codeformer
    inputs = jnp.asarray(lq, jnp.float32) / 127.5 - 1
    shown = {"input": lq}
    for w in (0, 1):
        apply = jax.jit(module.apply, static_argnames="adain")
        out = apply(variables, inputs, w=jnp.full(4, w, jnp.float32), adain=True)
        shown[f"w={w}"] = np.clip((np.asarray(out.image) + 1) * 127.5, 0, 255).round()
    for row, pictures in shown.items():
        mse = ((pictures.astype(np.float64) - truth) ** 2).mean(axis=(1, 2, 3)) / 255**2
        np.testing.assert_allclose(found.scores[row]["psnr"], -10 * np.log10(mse), rtol=1e-4)
    assert not {"seed", "degradation"} & set(found.settings)
    clean = evaluate(*vqgan, pairs, **options)
    teacher, alone = found.scores["teacher"]["psnr"], clean.scores["reconstruction"]["psnr"]
    np.testing.assert_allclose(teacher, alone, rtol=1e-4)


def test_pairs_need_no_recipe_and_clean_images_do(made, codeformer):
    pairs = open_testset(made[0])
    with pytest.raises(ValueError, match="degraded already; leave it out"):
        evaluate(*codeformer, pairs, recipe=1.0)
    odd = [pairs[0], {**pairs[1], "degraded": np.zeros((16, 16, 3), np.uint8)}]
    with pytest.raises(ValueError, match=r"'sub/deep/a b\.png' has .* px, but the images before"):
        evaluate(*codeformer, odd)
    half = [pairs[0], {k: v for k, v in pairs[1].items() if k != "degraded"}]
    with pytest.raises(ValueError, match="some do not"):
        evaluate(*codeformer, half)
