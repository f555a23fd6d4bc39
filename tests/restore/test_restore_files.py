import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from codeformer_jax import restore
from codeformer_jax.data.images import FIRST_FRAME, METADATA, read_image, write_image
from codeformer_jax.restore import RestoreError, RestoreOptions, Restorer, aligned
from codeformer_jax.restore.fit import NOT_PAINTED, NOT_SQUARE
from codeformer_jax.restore.jobs import plan_files


def restore_files(inputs, output, restorer, scorer=None, **options):
    options = RestoreOptions(**options)
    return restore.restore_files(inputs, output, options, restorer=restorer, scorer=scorer)


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def faces(tmp_path, picture):
    """A folder with pictures of several sizes and formats, some deeper."""
    folder = tmp_path / "faces"
    write_image(folder / "a.png", picture(32, 32, 1))
    write_image(folder / "b c.jpg", picture(50, 50, 2))
    write_image(folder / "deep" / "er" / "ü 面.webp", picture(20, 20, 3))
    write_image(folder / "deep" / "gray.PNG", picture(40, 40, 4), gray=True)
    write_image(folder / "deep" / "wide.bmp", picture(16, 32, 5))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.png").write_bytes(b"")
    return folder


RESULTS = ["a.png", "b c.png", "deep/er/ü 面.png", "deep/gray.png", "deep/wide.png"]


def test_folder(tmp_path, faces, restorer):
    before = tree(faces)
    summary = restore_files([faces], tmp_path / "out", restorer, w=0.3)
    assert sorted(tree(tmp_path / "out")) == RESULTS
    assert sorted(summary.written) == [tmp_path / "out" / name for name in RESULTS]
    assert summary.failed == summary.skipped == ()
    assert summary.notes == {NOT_SQUARE: (faces / "deep" / "wide.bmp",)}
    assert tree(faces) == before
    for source, name in (("a.png", "a.png"), ("deep/wide.bmp", "deep/wide.png")):
        result = read_image(tmp_path / "out" / name)
        expected = restorer(read_image(faces / source).pixels, w=0.3)
        assert np.abs(result.pixels.astype(int) - expected).max() <= 1
    with Image.open(tmp_path / "out" / "deep" / "gray.png") as gray:
        assert (gray.mode, gray.size) == ("L", (32, 32))
    assert summary.others == (faces / "notes.txt",)
    assert f"left out 1 file that is not a picture: '{faces / 'notes.txt'}'" in str(summary)


def test_linked_folders_are_searched_once(tmp_path, faces):
    other = tmp_path / "other"
    write_image(other / "x.png", np.zeros((8, 8, 3), np.uint8))
    (faces / "linked").symlink_to(other)
    (faces / "again").symlink_to(other)
    (faces / "deep" / "loop").symlink_to(faces)
    (faces / "out").symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "kept.png", np.zeros((8, 8, 3), np.uint8))
    found = plan_files([faces], tmp_path / "out", RestoreOptions()).jobs
    assert sorted(str(job.results[0].relative_to(tmp_path / "out")) for job in found) == sorted(
        [*RESULTS, "again/x.png"]
    )


def test_files_and_folders(tmp_path, faces, restorer):
    inputs = [faces / "deep" / "er" / "ü 面.webp", str(faces / "deep" / "er"), faces / "a.png"]
    summary = restore_files(inputs, tmp_path / "out", restorer, suffix="_w", file_format="jpg")
    names = ["ü 面_w.jpg", "a_w.jpg"]
    assert summary.written == tuple(tmp_path / "out" / name for name in names)
    assert read_image(tmp_path / "out" / "a_w.jpg").pixels.shape == (32, 32, 3)


def test_pictures_by_content_and_the_rest_by_name(tmp_path, picture, restorer):
    folder = tmp_path / "in"
    folder.mkdir()
    first, second = (Image.fromarray(picture(32, 32, seed)) for seed in (1, 2))
    first.save(folder / "a.gif", save_all=True, append_images=[second])
    first.save(folder / "b.jfif", "JPEG")
    first.save(folder / "c", "PNG")
    first.convert("L").save(folder / "d.jpg", exif=camera())
    (folder / "d.HEIC").write_bytes(b"\0\0\0 ftypheic\0\0\0\0mif1heic")  # Beside its JPEG.
    (folder / "readme.txt").write_text("notes")
    summary = restore_files([folder], tmp_path / "out", restorer)
    assert sorted(tree(tmp_path / "out")) == ["a.png", "b.png", "c.png", "d.png"]
    assert [failure.path.name for failure in summary.failed] == ["d.HEIC"]
    assert summary.failed[0].reason.startswith(".heic files cannot be read; export the picture")
    assert summary.others == (folder / "readme.txt",)
    assert summary.notes == {FIRST_FRAME: (folder / "a.gif",), METADATA: (folder / "d.jpg",)}
    assert str(summary).splitlines()[1:] == [
        f"'{folder / 'a.gif'}': {FIRST_FRAME}",
        f"'{folder / 'd.jpg'}': {METADATA}",
        f"left out 1 file that is not a picture: '{folder / 'readme.txt'}'",
    ]


def test_files_given_by_name_keep_what_tells_them_apart(tmp_path, picture, restorer):
    for name in ("shot.2020", "shot.2021", "a.JPG"):
        Image.fromarray(picture(32, 32, 1)).save(tmp_path / name, "JPEG")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0 ftypheic\0\0\0\0mif1heic")
    summary = restore_files(sorted(tmp_path.iterdir()), tmp_path / "out", restorer)
    assert sorted(tree(tmp_path / "out")) == ["a.png", "shot.2020.png", "shot.2021.png"]
    assert [failure.path.name for failure in summary.failed] == ["a.heic"]


def camera():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    return exif


def test_a_folder_without_pictures_names_what_it_has(tmp_path, restorer):
    (tmp_path / "in").mkdir()
    for name in ("a.heic", "b.txt"):
        (tmp_path / "in" / name).write_text("x")
    with pytest.raises(
        RestoreError, match=r"not a picture: '.*b\.txt'; .*a\.heic: \.heic files ca"
    ):
        restore_files([tmp_path / "in"], tmp_path / "out", restorer)


def test_black_and_white_in_a_lossy_file_stays_black_and_white(tmp_path, picture, restorer):
    # Blue paper would be another thing: the channels differ by a level or two, here and there.
    scan = np.repeat(picture(64, 64)[..., :1], 3, axis=-1).astype(np.int16)
    scan += np.random.default_rng(0).integers(-2, 3, scan.shape, np.int16)
    write_image(tmp_path / "in" / "a.webp", scan.clip(0, 255).astype(np.uint8))
    assert np.ptp(read_image(tmp_path / "in" / "a.webp").pixels, axis=-1).max() > 0
    restore_files([tmp_path / "in"], tmp_path / "out", restorer)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.mode == "L"


def test_known_pixels_of_files_come_back(tmp_path, network, picture):
    inpainting = Restorer(*network, batch_size=4, keep_known=True)
    painted, whole = picture(32, 32), picture(32, 32, 1)
    painted[4:9] = 255
    write_image(tmp_path / "in" / "painted.png", painted)
    write_image(tmp_path / "in" / "whole.png", whole)
    summary = restore_files([tmp_path / "in"], tmp_path / "out", inpainting)
    result = read_image(tmp_path / "out" / "painted.png").pixels
    assert np.array_equal(np.delete(result, np.s_[4:9], 0), np.delete(painted, np.s_[4:9], 0))
    assert np.array_equal(read_image(tmp_path / "out" / "whole.png").pixels, whole)
    assert summary.notes == {NOT_PAINTED: (tmp_path / "in" / "whole.png",)}


def test_a_large_picture_needs_an_option(tmp_path, faces, restorer, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    inputs = [faces / "b c.jpg"]  # 2,500 pixels
    summary = restore_files(inputs, tmp_path / "out", restorer)
    assert (
        "more than 1000 pixels (a guard against decompression bombs); max_"
        in summary.failed[0].reason
    )
    summary = restore_files(inputs, tmp_path / "out", restorer, max_megapixels=0.0025)
    assert summary.written == (tmp_path / "out" / "b c.png",)


def test_unreadable_among_readable(tmp_path, faces, restorer):
    whole = (faces / "a.png").read_bytes()
    (faces / "aa cut.png").write_bytes(whole[: len(whole) // 2])
    (faces / "empty.jpg").touch()
    (faces / "text.png").write_text("no picture")
    missing = tmp_path / "missing.png"
    summary = restore_files([missing, faces], tmp_path / "out", restorer)
    assert sorted(tree(tmp_path / "out")) == RESULTS
    failed = {failure.path: failure.reason for failure in summary.failed}
    assert set(failed) == {missing, *(faces / n for n in ("aa cut.png", "empty.jpg", "text.png"))}
    assert failed[missing] == "no such file or folder"
    assert "empty" in failed[faces / "empty.jpg"]
    assert all(failed.values())


def test_failing_network_writes_nothing(tmp_path, faces, restorer, monkeypatch):
    good, calls = restorer.restore_batch, []

    def second_fails(batch, *args, **kwargs):
        calls.append(len(batch))
        if len(calls) == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmany more lines")
        return good(batch, *args, **kwargs)

    monkeypatch.setattr(restorer, "restore_batch", second_fails)
    summary = restore_files([faces], tmp_path / "out", restorer, batch_size=2)
    assert calls == [2, 2, 1]
    assert len(summary.written) == 3
    assert len(summary.failed) == 2
    for failure in summary.failed:
        assert "the network failed: RuntimeError: RESOURCE_EXHAUSTED" in failure.reason
        assert "smaller batch size" in failure.reason
        target = (tmp_path / "out" / failure.path.relative_to(faces)).with_suffix(".png")
        assert not target.exists()


def test_result_that_is_not_finite_is_not_written(tmp_path, faces, restorer, monkeypatch):
    good = restorer.restore_batch

    def first_is_nan(batch, *args, **kwargs):
        restored = good(batch, *args, **kwargs)
        return type(restored)(restored.images, np.arange(len(batch)) > 0)

    monkeypatch.setattr(restorer, "restore_batch", first_is_nan)
    summary = restore_files([faces], tmp_path / "out", restorer, batch_size=8)
    assert [failure.path for failure in summary.failed] == [faces / "a.png"]
    assert "infinities or NaN" in summary.failed[0].reason
    assert sorted(tree(tmp_path / "out")) == RESULTS[1:]


def test_failing_write_is_reported(tmp_path, faces, restorer, monkeypatch):
    def full(path, pixels, gray=False):
        if path.name == "a.png":
            raise OSError(28, "No space left on device")
        write_image(path, pixels, gray)

    monkeypatch.setattr(aligned, "write_image", full)
    summary = restore_files([faces], tmp_path / "out", restorer)
    assert [failure.path for failure in summary.failed] == [faces / "a.png"]
    assert summary.failed[0].reason.endswith("a.png': No space left on device")
    assert len(summary.written) == 4


def test_existing_results_are_found_before_the_network_runs(tmp_path, faces, restorer, monkeypatch):
    restore_files([faces / "a.png"], tmp_path / "out", restorer, w=0.0)
    before = tree(tmp_path / "out")
    monkeypatch.setattr(restorer, "restore_batch", None)
    with pytest.raises(RestoreError, match=r"1 of 5 files exist.*\n.*out/a\.png\n--force"):
        restore_files([faces], tmp_path / "out", restorer, w=1.0)
    assert tree(tmp_path / "out") == before


def test_force_and_skip_existing(tmp_path, faces, restorer):
    out = tmp_path / "out"
    restore_files([faces], out, restorer, w=0.0, limit=1)
    before = tree(out)
    summary = restore_files([faces], out, restorer, w=1.0, skip_existing=True, limit=2)
    assert summary.skipped == (out / "a.png",)
    assert [path.name for path in summary.written] == ["b c.png", "gray.png"]
    assert tree(out)["a.png"] == before["a.png"]
    summary = restore_files([faces], out, restorer, w=1.0, force=True)
    assert len(summary.written) == 5
    assert tree(out)["a.png"] != before["a.png"]
    nothing = restore_files([faces], out, restorer, skip_existing=True)
    assert nothing.written == nothing.failed == ()
    assert len(nothing.skipped) == 5


def test_result_that_comes_to_exist_meanwhile_is_kept(tmp_path, faces, restorer, monkeypatch):
    target = tmp_path / "out" / "a.png"

    def read(path, *options):
        target.write_bytes(b"somebody else's")
        return read_image(path, *options)

    monkeypatch.setattr(aligned, "read_image", read)
    summary = restore_files([faces / "a.png"], tmp_path / "out", restorer)
    assert "it was created meanwhile; pass --force to replace it" in summary.failed[0].reason
    assert target.read_bytes() == b"somebody else's"


def test_output_below_the_input_is_not_read(tmp_path, faces, restorer):
    for _ in range(2):
        summary = restore_files([faces], faces / "deep" / "out", restorer, force=True)
        assert len(summary.written) == 5
    assert sorted(tree(faces / "deep" / "out")) == RESULTS


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["faces"], "faces", "faces' is an input folder"),
        (["faces/a.png"], "faces", "'.*faces/a.png' would replace the input '.*faces/a.png'"),
        (["empty"], "out", "no image found in '.*empty'; expected image files, or folders with"),
        (["nowhere"], "out", "no image found in '.*nowhere'; .*no such file or folder"),
        ([], "out", "no image found in nothing"),
    ],
)
def test_bad_inputs_and_outputs(tmp_path, faces, restorer, *, inputs, output, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    shutil.copy(faces / "a.png", tmp_path / "other")
    before = tree(tmp_path)
    with pytest.raises(RestoreError, match=message):
        restore_files([tmp_path / path for path in inputs], tmp_path / output, restorer, force=True)
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_pictures_with_one_result_are_left_out_and_the_others_restored(tmp_path, faces, restorer):
    shutil.copy(faces / "b c.jpg", faces / "a.jpg")
    summary = restore_files([faces, faces], tmp_path / "out", restorer)
    assert [failure.path.name for failure in summary.failed] == ["a.jpg", "a.png"]
    assert "a.png' would also be written to" in summary.failed[0].reason
    assert len(summary.written) == 4
    assert not (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_format": "gif"}, "format is 'gif'; expected one of png, jpg, webp"),
        ({"suffix": "../x"}, "must not hold a path separator"),
        ({"limit": 0}, "limit is 0"),
        ({"max_megapixels": 0.0}, "max_megapixels is 0.0; expected a finite number above 0"),
        ({"w": 1.3}, r"w is 1\.3"),
        ({"batch_size": 0}, "batch size is 0"),
    ],
)
def test_bad_options(tmp_path, faces, restorer, options, message):
    with pytest.raises(RestoreError, match=message):
        restore_files([faces], tmp_path / "out", restorer, **options)
    assert not (tmp_path / "out").exists()


def test_folder_in_the_place_of_a_result(tmp_path, faces, restorer):
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    with pytest.raises(RestoreError, match=r"a folder has the name of a result:\n.*a\.png"):
        restore_files([faces], tmp_path / "out", restorer, force=True)
    assert tree(tmp_path / "out") == {}


def test_result_through_a_link_does_not_replace_an_input(tmp_path, faces, restorer):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(faces / "a.png")
    before = tree(faces)
    with pytest.raises(RestoreError, match="would replace the input"):
        restore_files([faces], tmp_path / "out", restorer, force=True)
    assert tree(faces) == before


def test_output_that_cannot_be_made(tmp_path, faces, restorer, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*out"):
        restore_files([faces], tmp_path / "out", restorer)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_listed(tmp_path, faces, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    plan = plan_files([faces], tmp_path / "out", RestoreOptions())
    assert [job.source.name for job in plan.jobs] == ["a.png", "b c.jpg"]
    assert plan.unreadable[0].path == faces / "deep"
    assert plan.unreadable[0].reason == "Permission denied"


def test_interrupt_leaves_whole_files(tmp_path, faces, restorer, monkeypatch):
    good, calls = restorer.restore_batch, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return good(*args, **kwargs)

    monkeypatch.setattr(restorer, "restore_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_files([faces], tmp_path / "out", restorer, batch_size=1)
    for name in tree(tmp_path / "out"):
        assert read_image(tmp_path / "out" / name).pixels.shape == (32, 32, 3)
    summary = restore_files([faces], tmp_path / "out", restorer, skip_existing=True)
    assert len(summary.written) + len(summary.skipped) == 5
