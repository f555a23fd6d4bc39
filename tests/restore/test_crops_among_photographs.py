"""Crops of aligned faces among photographs."""

import dataclasses
import json
import types

import jax.numpy as jnp
import numpy as np

from codeformer_jax.data.images import write_image
from codeformer_jax.data.photos import PhotoFile, read_photo, write_photo
from codeformer_jax.data.synthetic import render_face
from codeformer_jax.restore import PhotoOptions, Restorer, restore_files


@dataclasses.dataclass(frozen=True)
class Network:
    """Adds a constant to its images."""

    shift: float
    image_size: int

    def apply(self, variables, images, *, w, adain):
        return types.SimpleNamespace(image=images + self.shift * variables["params"]["one"])


def network(shift, side, **options):
    return Restorer(Network(shift, side), {"params": {"one": jnp.ones(())}}, **options)


def test_an_aligned_crop_among_photographs_is_restored_as_one(tmp_path):
    face = render_face(1, 192)
    write_image(tmp_path / "in" / "crop.png", face)
    wide = np.full((400, 500, 3), 90, np.uint8)
    wide[100:292, 150:342] = face
    write_image(tmp_path / "in" / "photo.png", wide)
    auto = restore_files(
        [tmp_path / "in"], tmp_path / "out", photo=PhotoOptions(), restorer=network(0.1, 200)
    )
    assert not auto.failed
    assert read_photo(tmp_path / "out" / "crop.png").pixels.shape == (200, 200, 3)
    assert read_photo(tmp_path / "out" / "photo.png").pixels.shape == wide.shape
    yes = PhotoOptions(aligned="yes")
    restore_files(
        [tmp_path / "in" / "crop.png"], tmp_path / "yes", photo=yes, restorer=network(0.1, 200)
    )
    assert (tmp_path / "yes" / "crop.png").read_bytes() == (
        tmp_path / "out" / "crop.png"
    ).read_bytes()


def test_an_aligned_crop_and_a_photograph_of_16_bits_share_a_batch(tmp_path):
    face = render_face(1, 192)
    write_image(tmp_path / "in" / "crop.png", face)
    deep = np.full((400, 500, 3), 90 * 257, np.uint16)
    deep[100:292, 150:342] = face.astype(np.uint16) * 257
    write_photo(tmp_path / "in" / "deep.png", PhotoFile(deep), "")
    pair = network(0.0, 192, batch_size=2)
    summary = restore_files(
        [tmp_path / "in"], tmp_path / "out", photo=PhotoOptions(), restorer=pair
    )
    assert not summary.failed
    assert read_photo(tmp_path / "out" / "crop.png").pixels.dtype == np.uint8
    assert np.array_equal(read_photo(tmp_path / "out" / "deep.png").pixels, deep)
    assert any("crop of an aligned face" in note for note in summary.notes)
    record = json.loads((tmp_path / "out" / "crop.json").read_text())
    assert record["faces"][0]["done"] == "restored as the crop of an aligned face"


def test_an_aligned_square_larger_than_the_network_is_a_photograph(tmp_path):
    write_image(tmp_path / "portrait.png", render_face(1, 192))
    out = tmp_path / "out"
    restore_files([tmp_path / "portrait.png"], out, photo=PhotoOptions(), restorer=network(0.1, 32))
    assert read_photo(out / "portrait.png").pixels.shape == (192, 192, 3)


def test_a_face_that_stays_as_it_was_is_not_called_restored(tmp_path):
    portrait = render_face(1, 256)
    write_image(tmp_path / "portrait.png", portrait)
    out = tmp_path / "out"
    restore_files([tmp_path / "portrait.png"], out, photo=PhotoOptions(), restorer=network(0.1, 64))
    np.testing.assert_array_equal(read_photo(out / "portrait.png").pixels, portrait)
    (face,) = json.loads((out / "portrait.json").read_text())["faces"]
    assert face["done"].startswith("left as it was")
    assert b"neural network" not in (out / "portrait.png").read_bytes()
    full = PhotoOptions(detail=False)
    whole = tmp_path / "all"
    restore_files([tmp_path / "portrait.png"], whole, photo=full, restorer=network(0.1, 64))
    (face,) = json.loads((tmp_path / "all" / "portrait.json").read_text())["faces"]
    assert face["done"] == "restored"
    assert b"neural network" in (tmp_path / "all" / "portrait.png").read_bytes()
