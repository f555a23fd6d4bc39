"""Files that are left out: each reason, the report, the limit, duplicates."""

import contextlib
import errno
import os
import pathlib
import shutil
import struct
import tempfile

import numpy as np
import pytest
from PIL import Image
from prepare.support import Room, fill, picture, read_all, read_split, rejected, save, splits

from codeformer_jax.data.folder import name_hash
from codeformer_jax.data.images import UnreadableImage, read_image
from codeformer_jax.prepare.publish import TooManyRejected
from codeformer_jax.prepare.staging import PrepareError

NOBODY = 65534


def truncated(path):
    save(path, 5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged(path):
    save(path, 6)
    data = bytearray(path.read_bytes())
    data[60:-30:7] = bytes(len(data[60:-30:7]))
    path.write_bytes(data)


def dangling(path):
    path.symlink_to(path.with_name("nowhere.png"))


CASES = {
    "text.png": (lambda path: path.write_text("no picture"), "unreadable", "not an image"),
    "zero.jpg": (pathlib.Path.touch, "unreadable", "the file is empty"),
    "half.png": (truncated, "unreadable", "truncated"),
    "damaged.png": (damaged, "unreadable", ""),
    "dangling.png": (dangling, "unreadable", "no such file or directory"),
    "small.png": (lambda path: save(path, height=30, width=7), "too_small", "7x30 pixels (w x h)"),
    "bomb.png": (
        lambda path: save(path, height=60, width=60),
        "unreadable",
        "more than 1000 pixel",
    ),
    "photo.heic": (lambda path: path.write_bytes(b"heic"), "unreadable", ".heic files cannot"),
    "notes.txt": (lambda path: path.write_text("x"), "other", "the suffix '.txt' is not one"),
    "same.bmp": (lambda path: save(path, 0), "duplicate", "the same picture as '000.png'"),
}


@pytest.mark.parametrize("name", CASES)
def test_reasons(room, monkeypatch, name):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fill(room.faces, 3)
    make, kind, reason = CASES[name]
    make(room.faces / name)
    summary = room.prepare()
    assert set(read_all(room.out)) == {"000.png", "001.png", "002.png"}
    found = rejected(room.out)
    assert found.keys() == {name}
    assert found[name][0] == kind
    assert reason in found[name][1]
    assert summary.rejected == {kind: 1}
    assert str(summary).endswith(f"left out: 1 {kind}; listed in {room.out / 'rejected.jsonl'}")


def test_everything_at_once_is_listed_and_the_rest_is_kept(room, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fill(room.faces, 20)
    for name, (make, _, _) in CASES.items():
        make(room.faces / name)
    assert room.prepare().splits == {"train": 17, "validation": 3}
    assert {name: kind for name, (kind, _) in rejected(room.out).items()} == {
        name: kind for name, (_, kind, _) in CASES.items()
    }


def test_hidden_files_are_no_input(room):
    fill(room.faces, 2)
    (room.faces / ".hidden.png").write_text("x")
    (room.faces / ".cache").mkdir()
    (room.faces / ".cache" / "thumb.png").write_text("x")
    room.prepare()
    assert rejected(room.out) == {}


def test_too_many_are_an_error_with_a_report_and_nothing_is_done_twice(room, monkeypatch):
    fill(room.faces, 4)
    for name in ("x.png", "y.png"):
        (room.faces / name).write_text("no picture")
    save(room.faces / "z.png", 2)
    (room.faces / "notes.txt").write_text("does not count")
    with pytest.raises(TooManyRejected) as caught:
        room.prepare(max_rejected=2)
    message = str(caught.value)
    assert message.startswith(
        "3 of 7 images were left out (1 duplicate, 2 unreadable), more than max_"
    )
    assert f"'{room.partial / 'rejected.jsonl'}' lists them. Give --max-rejected 3" in message
    assert "\n  x.png: not an image" in message
    assert "\n  z.png: the same picture as '002.png'" in message
    assert "notes.txt" not in message
    assert not room.out.exists()
    assert set(rejected(room.partial)) == {"x.png", "y.png", "z.png", "notes.txt"}

    def read_again(*_):
        raise AssertionError

    monkeypatch.setattr("codeformer_jax.prepare.shards.examine", read_again)
    assert sum(room.prepare(max_rejected=3).splits.values()) == 4
    assert not room.partial.exists()


def test_the_default_limit(room):
    fill(room.faces, 3)
    for index in range(11):
        (room.faces / f"bad{index:02d}.png").touch()
    with pytest.raises(TooManyRejected, match=r"11 of 14 .* max_rejected=10(?s:.*)  and 1 more$"):
        room.prepare()
    (room.faces / "bad00.png").unlink()
    assert sum(room.prepare(restart=True).splits.values()) == 3


def test_nothing_is_left(room):
    room.faces.mkdir()
    (room.faces / "a.png").touch()
    with pytest.raises(PrepareError, match=r"no picture is left: all 1 .* see '.*rejected\.jsonl'"):
        room.prepare()
    assert not room.out.exists()


def test_a_shard_or_split_without_pictures_leaves_no_gap(room, small_shards):
    fill(room.faces, 24)
    room.prepare(validation_fraction=0.0)
    order = list(read_split(room.out, "train"))
    for name in order[4:8]:
        (room.faces / name).write_text("no picture")
    room.prepare(validation_fraction=0.0, force=True)
    assert list(read_split(room.out, "train")) == order[:4] + order[8:]
    assert len(list(room.out.glob("*.array_record-*-of-00005"))) == 5
    (room.faces / order[0]).write_text("no picture")
    first_two = [name_hash(name) for name in order[:2]]
    room.prepare(validation_fraction=sum(first_two) / 2 / 2**64, force=True)
    assert splits(room.out) == {"train"}
    assert list(read_split(room.out, "train")) == order[1:4] + order[8:]


def test_duplicates_over_shards_and_sources_keep_the_smallest_name(room, tmp_path, small_shards):
    fill(room.faces, 30)
    for index in (3, 17, 25):
        save(room.faces / f"b/copy{index}.png", index)
    save(room.faces / "b/copy3.tiff", 3)
    save(tmp_path / "other" / "1.png", 17)
    save(tmp_path / "other" / "2.png", 200)
    room.prepare(room.faces, tmp_path / "other", validation_fraction=0.0)
    found = read_all(room.out)
    assert set(found) == {f"faces/{index:03d}.png" for index in range(30)} | {"other/2.png"}
    for index in range(30):
        np.testing.assert_array_equal(found[f"faces/{index:03d}.png"], resized(index))
    assert {name: reason for name, (_, reason) in rejected(room.out).items()} == {
        "faces/b/copy3.png": "the same picture as 'faces/003.png'",
        "faces/b/copy3.tiff": "the same picture as 'faces/003.png'",
        "faces/b/copy17.png": "the same picture as 'faces/017.png'",
        "faces/b/copy25.png": "the same picture as 'faces/025.png'",
        "other/1.png": "the same picture as 'faces/017.png'",
    }


def test_a_copy_never_moves_a_picture_from_train_to_validation(room, small_shards):
    fill(room.faces, 30)
    room.prepare(validation_fraction=0.5)
    train = set(read_split(room.out, "train"))
    for index in range(30):
        for start in ("a", "z"):
            save(room.faces / f"{start}{index:03d}.png", index)
    room.prepare(validation_fraction=0.5, max_rejected=60, force=True)
    after = read_split(room.out, "train")
    pixels = {image.tobytes() for image in after.values()}
    assert train
    assert pixels >= {resized(int(name[:3])).tobytes() for name in train}
    expected = set()
    for index in range(30):
        names = [f"{start}{index:03d}.png" for start in ("", "a", "z")]
        expected.add(min(names, key=lambda name: (name_hash(name) < 2**63, name)))
    assert read_all(room.out).keys() == expected
    assert after.keys() == {name for name in expected if name_hash(name) >= 2**63}


def resized(seed):
    return np.asarray(Image.fromarray(picture(seed)).resize((16, 16), Image.Resampling.LANCZOS))


def test_equal_beginnings_of_digests_are_no_duplicates(room, monkeypatch):
    monkeypatch.setattr("codeformer_jax.prepare.publish._start", lambda digest: 7)
    fill(room.faces, 5)
    save(room.faces / "copy.png", 2)
    room.prepare()
    assert len(read_all(room.out)) == 5
    assert set(rejected(room.out)) == {"copy.png"}


PASSING = [
    *(OSError(code, os.strerror(code)) for code in (errno.EIO, errno.ESTALE, errno.ENOTCONN)),
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)),
    MemoryError(),
]


@pytest.mark.parametrize("cause", PASSING, ids=repr)
def test_a_machine_that_fails_is_no_fault_of_the_file_which_is_named(room, monkeypatch, cause):
    fill(room.faces, 3)

    def fail(path, *options):
        if path.name != "001.png":
            return read_image(path, *options)
        raise UnreadableImage(path, "reading failed") from cause

    with monkeypatch.context() as patch:
        patch.setattr("codeformer_jax.prepare.examine.read_image", fail)
        with pytest.raises(OSError, match=r"001\.png'(?s:.*)give the same command again to resume"):
            room.prepare()
    assert not room.out.exists()
    assert sum(room.prepare().splits.values()) == 3


def test_memory_that_runs_out_while_resizing_names_the_file(room, monkeypatch):
    fill(room.faces, 3)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("codeformer_jax.prepare.examine.resize_image", fail)
    with pytest.raises(OSError, match=r"no memory to read it; use fewer --workers.*00\d\.png'"):
        room.prepare()
    assert room.partial.exists()


def test_a_header_that_points_far_beyond_the_file(room):
    fill(room.faces, 3)
    header = b"II" + struct.pack("<HHHQ", 43, 8, 0, 2**62)  # BigTIFF; its directory is at 2^62.
    (room.faces / "far.tif").write_bytes(header + bytes(100))
    room.prepare()
    assert rejected(room.out)["far.tif"][0] == "unreadable"
    assert len(read_all(room.out)) == 3


@pytest.fixture
def open_room():
    """A room that a user without rights may enter."""
    folder = pathlib.Path(tempfile.mkdtemp())
    room = Room(folder / "faces", folder / "out")
    fill(room.faces, 3)
    room.prepare()
    shutil.rmtree(room.out)
    for path in (folder, room.faces):
        path.chmod(0o777)
    yield room
    for path in (room.faces, *room.faces.rglob("*")):
        path.chmod(0o777)
    shutil.rmtree(folder)


@contextlib.contextmanager
def without_rights():
    """Root may read everything, so become nobody for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_permission_is_listed(open_room):
    (open_room.faces / "001.png").chmod(0)
    with without_rights():
        open_room.prepare()
    assert rejected(open_room.out) == {"001.png": ("unreadable", "permission denied")}
    assert set(read_all(open_room.out)) == {"000.png", "002.png"}


def test_a_folder_without_permission_is_an_error_since_nobody_knows_what_is_in_it(open_room):
    save(open_room.faces / "sub" / "4.png", 4)
    (open_room.faces / "sub").chmod(0)
    with without_rights(), pytest.raises(PermissionError, match=r"cannot be listed .*: '.*/sub'"):
        open_room.prepare()
    assert not open_room.out.exists()
    assert not open_room.partial.exists()


def test_a_place_without_permission(open_room):
    open_room.faces.parent.chmod(0o555)
    with without_rights(), pytest.raises(PermissionError, match=r"out\.partial"):
        open_room.prepare()
    assert [path.name for path in open_room.faces.parent.iterdir()] == ["faces"]


def test_empty_folder_missing_folder_and_file(room):
    with pytest.raises(FileNotFoundError, match=r"no image folder '.*faces'; give an existing"):
        room.prepare()
    room.faces.mkdir()
    with pytest.raises(PrepareError, match=r"no images in '.*faces': found 0 other .*\.png"):
        room.prepare()
    (room.faces / "a.txt").touch()
    with pytest.raises(PrepareError, match="found 1 other files"):
        room.prepare()
    with pytest.raises(NotADirectoryError, match=r"a\.txt' is a file"):
        room.prepare(room.faces / "a.txt")
    assert sorted(path.name for path in room.out.parent.iterdir()) == ["faces"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; expected at least 1"),
        ({"file_format": "gif"}, "format is 'gif'; expected one of png, webp, jpeg"),
        ({"min_size": -1}, "min size is -1"),
        ({"validation_fraction": 1.5}, "validation fraction is 1.5; expected 0 to 1"),
        ({"max_megapixels": 0.0}, "max megapixels is 0.0; expected more than 0"),
        ({"max_rejected": -1}, "max rejected is -1"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_options_out_of_range(room, options, message):
    fill(room.faces, 1)
    with pytest.raises(PrepareError, match=message):
        room.prepare(**options)
    assert not room.partial.exists()
