"""Reading and writing of image files: every kind that people have, and every way to be broken."""

import inspect
import io
import pickle
import warnings

import cv2
import numpy as np
import pytest
from photo_kinds import STORED, smooth
from PIL import Image

from codeformer_jax.data import images
from codeformer_jax.data.images import UnreadableImage, read_image, resize_image, write_image


def noise(height=20, width=30, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif"])
def test_lossless_formats_give_the_stored_pixels(tmp_path, suffix):
    pixels = noise()
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **options)
    picture = read_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.flags.writeable
    assert picture.notes == ()
    assert images.image_size(tmp_path / f"a.{suffix}") == (20, 30)


def test_jpeg(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", quality=95)
    error = read_image(tmp_path / "a.jpg").pixels.astype(int) - smooth()
    assert np.abs(error).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_ignored(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\0")
    assert read_image(tmp_path / "a.jpg").pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_files(tmp_path, mode):
    image = Image.fromarray(noise(channels=1)).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(tmp_path, mode):
    channels = noise(channels=len(mode))
    channels[:5, :, -1] = 0
    channels[5:9, :, -1] = 255
    Image.fromarray(channels, mode).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.notes == (images.TRANSPARENT,)
    alpha = channels[..., -1:] / 255
    colour = channels[..., :-1] if mode == "RGBA" else channels[..., :1].repeat(3, axis=-1)
    np.testing.assert_allclose(picture.pixels, colour * alpha + 255 * (1 - alpha), atol=1)
    assert (picture.pixels[:5] == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    indices = np.tile(np.arange(3, dtype=np.uint8), (8, 2))
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png").pixels, colours[indices])
    colours[1] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png").pixels, colours[indices])


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_samples_are_scaled_not_clipped(tmp_path, suffix, channels):
    shape = (64, 64, channels) if channels > 1 else (64, 64)
    samples = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    samples[0, 0], samples[0, 1] = 0, 65535
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), samples)
    picture = read_image(tmp_path / f"a.{suffix}")
    expected = samples[..., ::-1] if channels == 3 else samples[..., None]
    np.testing.assert_allclose(picture.pixels, np.broadcast_to(expected / 257, (64, 64, 3)), atol=1)
    assert (picture.pixels[0, 0] == 0).all()
    assert (picture.pixels[0, 1] == 255).all()


def test_32_bit_samples_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"a\.tif.*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    error = read_image(tmp_path / "a.jpg").pixels.astype(int) - smooth()
    assert np.abs(error).mean() < 3


def _cut(suffix, part):
    encoded = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(encoded, suffix)
    return encoded.getvalue()[: int(part * len(encoded.getvalue()))]


BROKEN = {
    "half.jpg": (lambda: _cut("JPEG", 0.5), "truncated"),
    "half.png": (lambda: _cut("PNG", 0.5), "truncated"),
    "half.webp": (lambda: _cut("WEBP", 0.5), "not an image of a known|decod"),
    "text.png": (lambda: b"this is no picture", "not an image of a known format"),
    "empty.jpg": (lambda: b"", "the file is empty"),
    "header.png": (lambda: _cut("PNG", 0.5)[:12], "."),
    "drawing.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_the_reason(tmp_path, name):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_image(tmp_path / name)
    assert str(caught.value).startswith(f"cannot read image '{tmp_path / name}': ")
    assert caught.value.path == str(tmp_path / name)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UnreadableImage, match="is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_data_in_memory_has_the_same_reason_as_a_file(tmp_path, name):
    content = BROKEN[name][0]()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImage) as of_file:
        read_image(tmp_path / name)
    with pytest.raises(UnreadableImage) as of_data:
        images.decode_image(content, "record 3")
    assert of_data.value.reason == of_file.value.reason
    assert str(of_data.value).startswith("cannot read image 'record 3': ")


def test_a_bomb_in_memory_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(UnreadableImage, match="'record 3': more than 4000 pixels"):
        images.decode_image(_cut("PNG", 1), "record 3")


def test_a_file_that_is_gone_while_its_error_is_explained(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"this is no picture")
    pillow_open = Image.open

    def remove(*arguments, **options):
        try:
            return pillow_open(*arguments, **options)
        finally:
            path.unlink()

    monkeypatch.setattr(Image, "open", remove)
    with pytest.raises(UnreadableImage, match=r"a\.png': not an image"):
        read_image(path)


def test_permission_denied(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    Image.fromarray(noise()).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=r"a\.png': permission denied"):
        read_image(tmp_path / "a.png")


def test_max_megapixels_allows_and_forbids(tmp_path, monkeypatch):
    Image.fromarray(noise()).save(tmp_path / "a.png")  # 600 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow itself refuses 200.
    with pytest.raises(UnreadableImage, match=r"more than 100 pixels .*; max_megapixels of rest"):
        read_image(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="more than 599 pixels"):
        read_image(tmp_path / "a.png", max_megapixels=0.000599)
    assert read_image(tmp_path / "a.png", max_megapixels=0.0006).pixels.shape == (20, 30, 3)
    assert images.image_size(tmp_path / "a.png", max_megapixels=0.0006) == (20, 30)


@pytest.mark.parametrize("limit", [300, 400, 599])
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, limit):
    Image.fromarray(noise()).save(tmp_path / "a.png")  # 600 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImage, match=f"more than {limit} pixels"):
        read_image(tmp_path / "a.png")
    with warnings.catch_warnings():  # The same where Pillow's warning is not an error.
        warnings.simplefilter("ignore")
        with pytest.raises(UnreadableImage, match=f"more than {limit} pixels"):
            read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert read_image(tmp_path / "a.png").pixels.shape == (20, 30, 3)


def test_resize_crops_to_the_centred_square():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    np.testing.assert_array_equal(resize_image(pixels, 40), np.full((40, 40, 3), 200))
    np.testing.assert_array_equal(
        resize_image(pixels.swapaxes(0, 1), 16), np.full((16, 16, 3), 200)
    )


def test_resize_to_height_and_width_keeps_everything():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = 200
    resized = resize_image(pixels, (10, 30))
    assert resized.shape == (10, 30, 3)
    assert (resized[:, :10] == 200).all()
    assert (resized[:, 20:] == 0).all()
    np.testing.assert_array_equal(resize_image(noise(), (20, 30)), noise())


def test_resize_averages_fine_detail_instead_of_aliasing():
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = np.repeat(checkers[..., None], 3, axis=-1).astype(np.uint8)
    assert np.abs(resize_image(pixels, 16).astype(int)[2:-2, 2:-2] - 127.5).max() < 3


def test_resize_refuses_no_pixels():
    with pytest.raises(ValueError, match="must be > 0"):
        resize_image(noise(), 0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF"])
def test_written_pixels_come_back(tmp_path, suffix):
    path = tmp_path / "new" / "folder" / f"å b.{suffix}"
    write_image(path, noise())
    np.testing.assert_array_equal(read_image(path).pixels, noise())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_written_lossy_formats(tmp_path, suffix):
    write_image(tmp_path / f"a.{suffix}", smooth())
    error = read_image(tmp_path / f"a.{suffix}").pixels.astype(int) - smooth()
    assert np.abs(error).mean() < 2


def test_written_gray_is_a_gray_file_with_the_same_values(tmp_path):
    pixels = np.repeat(noise(channels=1)[..., None], 3, axis=-1)
    write_image(tmp_path / "a.png", pixels, gray=True)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_unknown_suffix_writes_nothing(tmp_path, name):
    with pytest.raises(ValueError, match=r"none of \.png, \.jpg"):
        write_image(tmp_path / "new" / name, noise())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("pixels", [noise().astype(np.float32), noise()[..., 0], noise() > 9])
def test_wrong_pixels_write_nothing(tmp_path, pixels):
    with pytest.raises(TypeError, match=r"expected uint8 \[h, w, 3\]"):
        # The tests check annotations, too; users' programs do not.
        inspect.unwrap(write_image)(tmp_path / "new" / "a.png", pixels)
    assert not (tmp_path / "new").exists()


def test_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, noise())

    def full(self, data):
        self.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, noise(seed=1))
    np.testing.assert_array_equal(read_image(path).pixels, noise())
    assert list(tmp_path.iterdir()) == [path]
