"""The image folder: what is found, in which order and split, and what happens with bad files."""

import logging
import os
import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from codeformer_jax.data.folder import ImageFolder, TooManyUnreadable, in_split


def save(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def truncate(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill(root, count):
    for index in range(count):
        save(root / f"{index:02d}.png", index)


def test_any_nesting_in_the_order_of_names(tmp_path):
    names = ["A.png", "a/a b.jpg", "a/c/same.webp", "b/same.bmp", "b/ünï 漢.PNG", "b.x.jpeg"]
    for index, name in enumerate(names):
        save(tmp_path / name, 10 * index)
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".cache" / "thumb.png")
    (tmp_path / "notes.txt").write_text("not an image")
    folder = ImageFolder(tmp_path, 8, "all")
    assert folder.names == tuple(sorted(names))
    assert len(folder) == 6
    for index in range(6):
        element = folder[index]
        assert element["name"] == folder.names[index]
        assert element["index"] == index
        assert element["image"].shape == (8, 8, 3)
        assert element["image"].dtype == np.uint8
        assert abs(int(element["image"][4, 4, 0]) - 10 * names.index(element["name"])) <= 2
    assert not folder.skipped


def test_pictures_are_found_by_content_and_the_rest_is_named(tmp_path, caplog):
    fill(tmp_path, 2)
    for name in ("a.gif", "b.jfif", "sub/c"):
        save(tmp_path / "x.png", 90)
        (tmp_path / "sub").mkdir(exist_ok=True)
        with Image.open(tmp_path / "x.png") as image:
            image.save(tmp_path / name, "GIF" if name == "a.gif" else "JPEG")
    (tmp_path / "x.png").unlink()
    for index in range(7):
        (tmp_path / f"{index}.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        folder = ImageFolder(tmp_path, 8, "all")
    assert folder.names == ("00.png", "01.png", "a.gif", "b.jfif", "sub/c")
    assert [int(folder[i]["image"][0, 0, 0]) // 10 for i in range(5)] == [0, 0, 9, 9, 9]
    assert [record.getMessage() for record in caplog.records] == [
        f"left out of '{tmp_path}': 7 files that are not pictures: '0.json', '1.json', '2.json', "
        "'3.json', '4.json', ..."
    ]
    assert not folder.skipped


def test_pictures_that_nothing_reads_count_as_unreadable(tmp_path):
    fill(tmp_path, 2)
    for index in range(3):
        (tmp_path / f"{index}.heic").write_bytes(b"\0\0\0 ftypheic\0\0\0\0mif1heic")
    folder = ImageFolder(tmp_path, 8, "all", max_unreadable=3)
    assert folder.names == ("00.png", "01.png")
    assert set(folder.skipped) == {"0.heic", "1.heic", "2.heic"}
    with pytest.raises(TooManyUnreadable, match=r"0\.heic: \.heic files cannot be read; export"):
        ImageFolder(tmp_path, 8, "all", max_unreadable=2)


def test_other_files_beside_the_pictures_do_not_change_the_listing(tmp_path):
    # It is compared where a run goes on: of pictures with ordinary suffixes it stays as it was.
    fill(tmp_path, 3)
    expected = [f"{(tmp_path / f'0{i}.png').stat().st_size} 0{i}.png" for i in range(3)]
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0 ftypheic")
    assert list(ImageFolder(tmp_path, 8, "all").listing()) == expected


def test_max_megapixels(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    save(tmp_path / "small.png", 10)
    save(tmp_path / "large.png", 20, size=(20, 20))
    assert ImageFolder(tmp_path, 8, "all").names == ("small.png",)
    folder = pickle.loads(pickle.dumps(ImageFolder(tmp_path, 8, "all", max_megapixels=0.0004)))
    assert [int(folder[i]["image"][0, 0, 0]) for i in range(2)] == [20, 10]


def test_equal_names_in_different_folders_stay_apart(tmp_path):
    save(tmp_path / "x" / "1.png", 10)
    save(tmp_path / "y" / "1.png", 20)
    folder = ImageFolder(tmp_path, 8, "all")
    assert [(folder[i]["name"], folder[i]["image"][0, 0, 0]) for i in range(2)] == [
        ("x/1.png", 10),
        ("y/1.png", 20),
    ]


def test_links_are_followed_once(tmp_path):
    save(tmp_path / "real" / "1.png")
    save(tmp_path / "root" / "2.png")
    os.symlink(tmp_path / "real", tmp_path / "root" / "link")
    os.symlink(tmp_path / "root", tmp_path / "root" / "loop")
    assert ImageFolder(tmp_path / "root", 8, "all").names == ("2.png", "link/1.png")


def test_pictures_are_cropped_and_resized(tmp_path):
    save(tmp_path / "wide.png", 7, size=(90, 40))
    assert ImageFolder(tmp_path, 16, "all")[0]["image"].shape == (16, 16, 3)


def test_splits_partition_the_names_and_stay_when_files_are_added(tmp_path):
    fill(tmp_path, 40)
    train = set(ImageFolder(tmp_path, 8, "train", heldout_fraction=0.3).names)
    heldout = set(ImageFolder(tmp_path, 8, "heldout", heldout_fraction=0.3).names)
    assert not train & heldout
    assert train | heldout == set(ImageFolder(tmp_path, 8, "all").names)
    assert 3 <= len(heldout) <= 22
    for index in range(40):
        save(tmp_path / f"00-{index}.png")
    assert train < set(ImageFolder(tmp_path, 8, "train", heldout_fraction=0.3).names)
    assert heldout < set(ImageFolder(tmp_path, 8, "heldout", heldout_fraction=0.3).names)


def test_split_is_the_same_for_ever_and_for_both_forms_of_an_accent():
    # Of this project's own in_split when it was written: a change would move held-out pictures of
    # existing runs into their training sets.
    heldout = [i for i in range(40) if in_split(f"{i:02d}.png", "heldout", 0.1)]
    assert heldout == [6, 25]
    for index in range(50):
        name = f"é{index}.png"
        composed, decomposed = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
        assert in_split(composed, "train", 0.5) == in_split(decomposed, "train", 0.5)


def test_corrupt_header_and_small_files_are_left_out_and_named(tmp_path, caplog):
    fill(tmp_path, 4)
    (tmp_path / "01a.png").write_text("no picture")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "zero.jpg").touch()
    save(tmp_path / "tiny.png", size=(8, 3))
    with caplog.at_level(logging.WARNING):
        folder = ImageFolder(tmp_path, 8, "all")
    assert folder.names == ("00.png", "01.png", "02.png", "03.png")
    assert [folder[i]["image"][0, 0, 0] for i in range(4)] == [0, 1, 2, 3]
    messages = sorted(record.getMessage() for record in caplog.records)
    assert len(messages) == 3
    assert messages[0].startswith(f"skipped '01a.png' in '{tmp_path}': not an image")
    assert messages[1].startswith(f"skipped 'sub/zero.jpg' in '{tmp_path}': the file is empty")
    assert "too small: 8x3 pixels (w x h), its shorter side must be at least 4" in messages[2]


def test_min_size(tmp_path):
    save(tmp_path / "a.png", size=(8, 5))
    save(tmp_path / "b.png", size=(20, 20))
    assert len(ImageFolder(tmp_path, 8, "all", min_size=6)) == 1
    assert len(ImageFolder(tmp_path, 64, "all", min_size=0)) == 2


def test_undecodable_file_is_replaced_by_the_next_readable_one(tmp_path, caplog):
    fill(tmp_path, 4)
    truncate(tmp_path / "01.png")
    truncate(tmp_path / "02.png")
    folder = ImageFolder(tmp_path, 8, "all")
    assert len(folder) == 4
    with caplog.at_level(logging.WARNING):
        found = [(folder[i]["name"], folder[i]["index"]) for i in (0, 1, 2, 3, 1)]
    assert found == [("00.png", 0), ("03.png", 3), ("03.png", 3), ("03.png", 3), ("03.png", 3)]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"skipped '0{i}.png' in '{tmp_path}'" for i in (1, 2)
    ]
    assert "truncated" in caplog.records[0].getMessage()
    # Another process, which starts at another place, gives the same.
    assert ImageFolder(tmp_path, 8, "all")[2]["name"] == "03.png"


def test_last_file_is_replaced_by_the_first(tmp_path):
    fill(tmp_path, 2)
    truncate(tmp_path / "02.png")
    assert ImageFolder(tmp_path, 8, "all")[2]["name"] == "00.png"


def test_too_many_bad_headers_are_an_error_that_lists_them(tmp_path):
    fill(tmp_path, 4)
    for name in ("x.png", "y.png"):
        (tmp_path / name).touch()
    assert len(ImageFolder(tmp_path, 8, "all", max_unreadable=2)) == 4
    with pytest.raises(TooManyUnreadable, match="more than max_unreadable=1") as caught:
        ImageFolder(tmp_path, 8, "all", max_unreadable=1)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "  x.png: the file is empty\n  y.png: the file is empty" in message
    assert "Repair or remove these files" in message


def test_the_limit_counts_files_that_fail_later(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "x.png").touch()
    truncate(tmp_path / "y.png")
    truncate(tmp_path / "z.png")
    folder = ImageFolder(tmp_path, 8, "all", max_unreadable=2)
    assert folder[1]["name"] == "01.png"
    with pytest.raises(TooManyUnreadable, match=r"(?s)x\.png.*y\.png: .*truncated.*z\.png"):
        folder[2]


def test_long_lists_are_shortened(tmp_path):
    fill(tmp_path, 1)
    for index in range(30):
        (tmp_path / f"bad{index:02d}.png").touch()
    with pytest.raises(TooManyUnreadable, match=r"\(30 so far\)(?s:.*)and 10 more"):
        ImageFolder(tmp_path, 8, "all")


@pytest.mark.parametrize("break_it", [truncate, lambda path: path.write_text("no picture")])
def test_nothing_readable(tmp_path, break_it):
    break_it(tmp_path / "a.png")
    with pytest.raises(TooManyUnreadable, match=r"a\.png"):
        ImageFolder(tmp_path, 8, "all")[0]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image folder '.*nowhere'; give an existing"):
        ImageFolder(tmp_path / "nowhere", 8)


def test_file_instead_of_folder(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(NotADirectoryError, match=r"a\.png' is a file; give the folder"):
        ImageFolder(tmp_path / "a.png", 8)


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .*found no files at all; expected .*\.png"):
        ImageFolder(tmp_path, 8)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "closed" / "b.png")
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(PermissionError, match=r"cannot be listed \(Perm.*: '.*closed'"):
        ImageFolder(tmp_path, 8, "all")


def test_folder_without_images(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").touch()
    with pytest.raises(ValueError, match=r"found 1 other files, such as 'sub/a\.txt'"):
        ImageFolder(tmp_path, 8)


def test_empty_split(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"split 'heldout' of .* none of its 1 images .*eval.path"):
        ImageFolder(tmp_path, 8, "heldout", heldout_fraction=0.0)
    with pytest.raises(ValueError, match="split 'train' of"):
        ImageFolder(tmp_path, 8, "train", heldout_fraction=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel, got 0"),
        ({"size": 8, "split": "test"}, "one of train, heldout, all, got 'test'"),
        ({"size": 8, "heldout_fraction": 1.5}, "within 0..1, got 1.5"),
        ({"size": 8, "max_megapixels": 0.0}, "max_megapixels must be above 0, got 0.0"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path, **options)


def test_index_out_of_range_and_iteration(tmp_path):
    fill(tmp_path, 3)
    folder = ImageFolder(tmp_path, 8, "all")
    with pytest.raises(IndexError, match=r"index 3 is outside 0\.\.2"):
        folder[3]
    assert [element["name"] for element in folder] == list(folder.names)


def test_copies_for_worker_processes(tmp_path):
    fill(tmp_path, 3)
    (tmp_path / "bad.png").touch()
    folder = ImageFolder(tmp_path, 8, "all")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.names == folder.names
    assert copy.skipped == folder.skipped
    np.testing.assert_array_equal(copy[2]["image"], folder[2]["image"])
