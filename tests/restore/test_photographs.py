"""Whole photographs: files in, restored files out, with records of what was done."""

import dataclasses
import json
import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from codeformer_jax import cli
from codeformer_jax.data.images import write_image
from codeformer_jax.data.photos import PhotoFile, read_photo, write_photo
from codeformer_jax.data.synthetic import render_face
from codeformer_jax.faces.detect import DETECTORS
from codeformer_jax.faces.enlarge import enlarge
from codeformer_jax.faces.face import TEMPLATE
from codeformer_jax.restore import (
    PhotoOptions,
    RestoreOptions,
    Restorer,
    photo_files,
    photo_options,
    restore_files,
)
from codeformer_jax.restore.restorer import NOT_FINITE

SIDE = 32


@dataclasses.dataclass(frozen=True)
class Network:
    """Adds a constant to its images; NaN where the top-left pixel is white."""

    shift: float = 0.0
    image_size: int = SIDE

    def apply(self, variables, images, *, w, adain):
        image = images + self.shift * variables["params"]["one"]
        white = (images[:, :1, :1] > 0.999).all(axis=-1, keepdims=True)
        return types.SimpleNamespace(image=jnp.where(white, jnp.nan, image))


def network(shift=0.0, **options):
    return Restorer(Network(shift), {"params": {"one": jnp.ones(())}}, **options)


@pytest.fixture
def photo(picture):
    """photo(seed=0) -> RGB of 90 x 120 px; `POINTS` names two faces in it."""
    return lambda seed=0: picture(90, 120, seed)


POINTS = [(TEMPLATE * 0.09 + (5, 20)).tolist(), (TEMPLATE * 0.1 + (60, 25)).tolist()]


@pytest.fixture
def options(tmp_path):
    """options(**fields) -> PhotoOptions whose faces are `POINTS` in every picture"""
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"points": points} for points in POINTS]))
    return lambda **fields: PhotoOptions(**{"boxes": boxes, "aligned": "no", **fields})


def kinds(pixels):
    """Name -> the photograph in another mode."""
    gray, deep = pixels[..., 0], pixels.astype(np.uint16) * 257 - 3 * (pixels > 0)
    alpha = np.arange(gray.size, dtype=np.uint8).reshape(gray.shape)
    return {
        "rgb": PhotoFile(pixels, None, None, None, ()),
        "gray": PhotoFile(gray, None, None, None, ()),
        "alpha": PhotoFile(pixels, alpha, None, None, ()),
        "deep": PhotoFile(deep.astype(np.uint16), None, None, None, ()),
        "deep gray": PhotoFile(deep[..., 0].astype(np.uint16), None, None, None, ()),
    }


def test_what_the_network_keeps_the_picture_keeps(tmp_path, photo, options):
    inputs = kinds(photo())
    for name, file in inputs.items():
        write_photo(tmp_path / "in" / f"{name}.png", file, "")
    summary = restore_files(
        [tmp_path / "in"], tmp_path / "out", photo=options(), restorer=network()
    )
    assert not summary.failed
    for name, file in inputs.items():
        result = read_photo(tmp_path / "out" / f"{name}.png")
        assert result.pixels.dtype == file.pixels.dtype
        assert np.array_equal(result.pixels, file.pixels), name
        assert (result.alpha is None) == (file.alpha is None)
        assert file.alpha is None or np.array_equal(result.alpha, file.alpha)


def test_only_faces_change_and_the_record_says_what_was_done(tmp_path, photo, options):
    write_image(tmp_path / "a.png", photo())
    chosen = options(faces="1", match_color=False)
    summary = restore_files(
        [tmp_path / "a.png"],
        tmp_path / "out",
        RestoreOptions(w=0.25),
        chosen,
        restorer=network(0.2),
    )
    assert [path.name for path in summary.written] == ["a.png"]
    change = read_photo(summary.written[0]).pixels.astype(int) - photo()
    left, top = np.array(POINTS[1]).min(0).astype(int)
    right, bottom = np.array(POINTS[1]).max(0).astype(int)
    assert np.abs(change[top:bottom, left:right] - 25.5).max() <= 1.5
    assert not change[:, :55].any()
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    first, second = record["faces"]
    assert first["done"] == "restored"
    assert "not chosen" in second["done"]
    assert np.abs(np.array(first["points"]) - POINTS[1]).max() < 0.01
    assert record["settings"]["w"] == 0.25
    assert len(record["settings"]["weights_sha256"]) == 64
    assert "Restored by codeformer-jax" in Image.open(summary.written[0]).text["Comment"]


@pytest.fixture
def portrait(tmp_path):
    """(a sharp drawn face, options that name it); it is 12 times as large as the network's"""
    boxes = tmp_path / "portrait.json"
    boxes.write_text(json.dumps([{"points": (TEMPLATE * 0.75).tolist()}]))
    return render_face(1, 384), lambda **fields: PhotoOptions(boxes=boxes, aligned="no", **fields)


def test_a_sharp_face_larger_than_the_network_stays(portrait):
    face, options = portrait
    restorer = network(0.2)
    kept = restorer.restore_photo(face, options=options(match_color=False))
    np.testing.assert_array_equal(kept.pixels, face)
    assert kept.faces[0].sharpness == 1
    assert "were left as they were, or almost" in " ".join(kept.notes)
    assert "were restored at less than their size" not in " ".join(kept.notes)
    full = restorer.restore_photo(face, options=options(match_color=False, detail=False))
    change = full.pixels[150:250, 150:230].astype(int) - face[150:250, 150:230]
    assert change.mean() > 10
    assert full.faces[0].sharpness is None
    assert "were restored at less than their size" in " ".join(full.notes)


@pytest.mark.parametrize("task", [{"keep_gray": False}, {"keep_known": True}])
def test_a_sharp_face_is_coloured_or_filled_in(portrait, task):
    face, options = portrait
    face[180:200, 170:210] = 255
    result = network(-0.2, **task).restore_photo(face, options=options(match_color=False))
    assert result.faces[0].sharpness is None
    assert (face[185:195, 180:200] - result.pixels[185:195, 180:200].astype(int)).mean() > 10


def test_a_large_blurred_face_is_restored(portrait):
    face, options = portrait
    blurred = cv2.GaussianBlur(face, (0, 0), 20)
    result = network(0.2).restore_photo(blurred, options=options(match_color=False))
    assert result.faces[0].sharpness == 0
    assert (result.pixels[150:250, 150:230].astype(int) - blurred[150:250, 150:230]).mean() > 10
    assert "were restored at less than their size" in " ".join(result.notes)


def test_faces_of_several_pictures_share_a_batch(tmp_path, photo, options, monkeypatch):
    for seed in range(3):
        write_image(tmp_path / "in" / f"{seed}.png", photo(seed))
    batches = []
    restorer = network(batch_size=4)
    plain = restorer.restore_batch

    def counted(batch, *arguments, **named):
        batches.append(len(batch))
        return plain(batch, *arguments, **named)

    monkeypatch.setattr(restorer, "restore_batch", counted)
    summary = restore_files([tmp_path / "in"], tmp_path / "out", photo=options(), restorer=restorer)
    assert len(summary.written) == 3
    assert batches == [4, 2]


def test_a_damaged_result_leaves_no_picture(tmp_path, photo, options):
    white = photo()
    white[:60, :55] = 255  # Holds the crop of the smaller face.
    write_image(tmp_path / "in" / "white.png", white)
    write_image(tmp_path / "in" / "good.png", photo())
    summary = restore_files(
        [tmp_path / "in"], tmp_path / "out", photo=options(), restorer=network()
    )
    (failure,) = summary.failed
    assert failure.path.name == "white.png"
    assert failure.reason == f"face 2: {NOT_FINITE}"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.json", "good.png"]


def test_nothing_to_restore_is_a_failure(tmp_path, photo):
    write_image(tmp_path / "in" / "empty.png", photo())
    (tmp_path / "in" / "zero.png").write_bytes(b"")
    summary = restore_files(
        [tmp_path / "in"], tmp_path / "out", photo=PhotoOptions(), restorer=network()
    )
    reasons = {failure.path.name: failure.reason for failure in summary.failed}
    assert "no face was found with a score of 0.7 or more" in reasons["empty.png"]
    assert reasons["zero.png"] == "the file is empty"
    assert not list((tmp_path / "out").iterdir())


def test_dry_run_draws_faces_and_needs_no_network(tmp_path, photo, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image("a.png", photo())
    command = ["restore", "a.png", "-o", "out", "--dry-run", "--box", "10,10,40,50"]
    assert cli.main(command) == 0
    assert "1 of 1 images previewed" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_faces.json", "a_faces.png"]
    record = json.loads((tmp_path / "out" / "a_faces.json").read_text())
    assert record["faces"][0]["done"] == "previewed"
    # The record of a preview, corrected by hand or not, is a file of boxes.
    again = [*command[:4], "--dry-run", "--force", "--boxes", "out/a_faces.json"]
    assert cli.main(again) == 0


def test_enlarged(tmp_path, photo, options):
    write_image(tmp_path / "a.png", photo())
    restore_files(
        [tmp_path / "a.png"], tmp_path / "out", photo=options(scale=2), restorer=network()
    )
    result = read_photo(tmp_path / "out" / "a.png").pixels.astype(int)
    assert np.abs(result - enlarge(photo(), 2)).max() <= 4


@pytest.mark.parametrize("paste", ["hull", "square", "published"])
def test_restore_photo_keeps_the_kind_of_array(photo, options, paste):
    restorer = Restorer(Network(0.1, 512), {"params": {"one": jnp.ones(())}})
    rgba = np.concatenate([photo(), photo()[..., :1]], axis=-1)
    for image in (photo(), photo()[..., 0], rgba, photo().astype(np.uint16) * 257):
        result = restorer.restore_photo(image, w=1, options=options(paste=paste, max_faces=1))
        assert result.pixels.shape == image.shape
        assert result.pixels.dtype == image.dtype
        assert [record.done == "restored" for record in result.faces].count(True) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aligned": "maybe"}, "aligned is 'maybe'; expected one of auto, yes, no"),
        ({"scale": 3}, "scale is 3"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"min_size": -1.0}, "min_size is -1.0"),
        ({"max_faces": 0}, "max_faces is 0"),
        ({"paste": "round"}, "paste is 'round'"),
        ({"background": "x.safetensors"}, "background needs an enlarged picture"),
        ({"box": ["1,1,2,2"], "boxes": "x"}, "not by both"),
        ({"box": ["1,1,2,2"], "threshold": 0.5}, "replace the detector"),
    ],
)
def test_bad_options(fields, message):
    with pytest.raises(ValueError, match=message):
        PhotoOptions(**fields)


def test_restore_photo_refuses_floats():
    with pytest.raises(ValueError, match=r"image is float32 \[8, 8, 3\]; expected uint8 or uint16"):
        network().restore_photo(np.zeros((8, 8, 3), np.float32))


def test_a_picture_without_faces_is_reported():
    result = network().restore_photo(np.zeros((80, 80, 3), np.uint8))
    assert result.notes == ("no face was restored",)
    assert not result.faces


def test_a_model_that_fails_on_one_picture_spares_the_others(tmp_path, photo, options, monkeypatch):
    for name in ("bad", "good"):
        write_image(tmp_path / "in" / f"{name}.png", photo())
    plain = photo_files.compose

    def compose(picture, *arguments):
        if not calls:
            calls.append(1)
            raise ValueError("ParseNet's result has infinities or NaN")
        return plain(picture, *arguments)

    calls = []
    monkeypatch.setattr(photo_files, "compose", compose)
    summary = restore_files(
        [tmp_path / "in"], tmp_path / "out", photo=options(), restorer=network()
    )
    assert [failure.reason for failure in summary.failed] == [
        "ParseNet's result has infinities or NaN"
    ]
    assert len(summary.written) == 1


@pytest.mark.parametrize("options", [{}, {"score": "prior"}])
def test_options_of_photographs_are_refused_for_aligned_faces(tmp_path, photo, options):
    write_image(tmp_path / "a.png", photo())
    chosen = PhotoOptions(aligned="auto" if options else "yes", dry_run=True, scale=2)
    with pytest.raises(ValueError, match="dry_run, scale: for photographs only"):
        restore_files([tmp_path / "a.png"], tmp_path / "out", RestoreOptions(**options), chosen)
    assert not (tmp_path / "out").exists()


def test_every_kind_of_model_and_format_through_files(tmp_path, photo, options):
    alpha = np.full(photo().shape[:2], 200, np.uint8)
    write_photo(tmp_path / "a.png", PhotoFile(photo(), alpha), "")
    asked = options(scale=2, identity=True, grain=True)
    summary = restore_files(
        [tmp_path / "a.png"],
        tmp_path / "out",
        RestoreOptions(file_format="jpg", limit=1),
        asked,
        restorer=network(0.1),
    )
    assert not summary.failed
    assert [path.name for path in summary.written] == ["a.jpg"]
    assert read_photo(summary.written[0]).pixels.shape == (180, 240, 3)
    assert "transparency was laid on white" in summary.notes
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert all(0 < face["identity"] <= 1 for face in record["faces"])
    assert record["settings"]["scale"] == 2


def test_inpainting_needs_painted_pixels(tmp_path, photo, options):
    write_image(tmp_path / "a.png", photo())
    summary = restore_files(
        [tmp_path / "a.png"], tmp_path / "out", photo=options(), restorer=network(keep_known=True)
    )
    assert "no pixel is white" in summary.failed[0].reason


def test_a_dark_face_in_a_colour_picture_keeps_its_colours(photo, options):
    dark = (photo() // 12).astype(np.uint8)
    dark[:, -2:] = (200, 20, 20)
    result = network().restore_photo(dark, options=options())
    assert np.array_equal(result.pixels, dark)


@pytest.mark.parametrize("paste", ["hull", "published"])
def test_gray_pictures_and_networks_that_colour_them(photo, options, paste):
    module = Network(0.2, 512)
    plain = Restorer(module, {"params": {"one": jnp.array([0.2, 0.0, -0.2])[None, None, None]}})
    gray = photo()[..., 0]
    kept = plain.restore_photo(gray, options=options(paste=paste)).pixels
    assert kept.shape == gray.shape
    assert abs(kept.astype(float).mean() - gray.mean()) < 1
    colours = Restorer(module, plain.variables, keep_gray=False)
    coloured = colours.restore_photo(gray, options=options(paste=paste)).pixels
    assert coloured.shape == (*gray.shape, 3)
    assert np.abs(coloured.astype(int) - gray[..., None]).max() > 3


@pytest.mark.parametrize("image", [np.zeros((0, 5, 3), np.uint8), np.zeros(5, np.uint8)])
def test_restore_photo_refuses_other_arrays(image):
    with pytest.raises(ValueError, match="expected uint8 or uint16"):
        network().restore_photo(image)


def test_every_detector_can_be_chosen():
    assert tuple(DETECTORS) == photo_options.DETECTORS


@pytest.mark.usefixtures("embedded_network")
def test_the_record_names_the_network(tmp_path, photo, options, model_file):
    write_image(tmp_path / "a.png", photo())

    def settings(folder, *chosen, **named):
        restore_files([tmp_path / "a.png"], tmp_path / folder, *chosen, photo=options(), **named)
        return json.loads((tmp_path / folder / "a.json").read_text())["settings"]

    embedded, given = settings("x"), settings("y", RestoreOptions(checkpoint=model_file))
    assert embedded["checkpoint"] == "photos128 (embedded)"
    assert given["checkpoint"] == str(model_file)
    assert embedded["weights_sha256"] == given["weights_sha256"]
    assert settings("z", restorer=network())["checkpoint"] is None
