"""Builds that are interrupted anywhere go on where they stopped; nothing is lost or half there."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image
from prepare.support import (
    Killed,
    die,
    fill,
    killed,
    killed_while_replacing,
    picture,
    read_all,
    rejected,
    save,
    tree_hash,
)
from small_disk import small_disk

from codeformer_jax.prepare import build, publish, shards
from codeformer_jax.prepare.examine import examine
from codeformer_jax.prepare.staging import PrepareError, Staging

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def whole(room, tmp_path, small_shards):
    """The room with 30 images, some of them bad, and what an uninterrupted build makes of it."""
    fill(room.faces, 30)
    save(room.faces / "copy.png", 7)
    (room.faces / "bad.png").touch()
    room.prepare()
    expected = tree_hash(room.out)
    shutil.rmtree(room.out)
    return expected


def count_files(staging_root, pattern):
    return len(list(pathlib.Path(staging_root).glob(pattern)))


def test_equal_bytes_whoever_builds_it(room, tmp_path):
    for index in range(600):
        save(room.faces / f"{index % 7}" / f"{index}.png", index, height=8, width=8)
    save(room.faces / "copy.png", 5)
    (room.faces / "bad.png").touch()
    room.prepare()
    first = tree_hash(room.out)
    assert len(list(room.out.glob("prepared-train.array_record-*-of-00003"))) == 3
    os.utime(room.faces / "copy.png", (1, 1))
    elsewhere = tmp_path / "other name"
    build.prepare([room.faces], elsewhere, size=16, workers=2)
    assert tree_hash(elsewhere) == first
    save(room.faces / "copy.png", 1000)
    room.prepare(force=True)
    assert tree_hash(room.out) != first


@pytest.mark.parametrize("after", [1, 9, 31])
def test_files_of_finished_shards_are_not_read_again(room, monkeypatch, whole, after):
    read = []

    def stop(path, *settings):
        if len(read) == after:
            raise Killed
        read.append(path.name)
        return examine(path, *settings)

    monkeypatch.setattr(shards, "examine", stop)
    with pytest.raises(Killed):
        room.prepare()
    assert not room.out.exists()
    assert count_files(room.partial, "shards/.*") == 0
    done = count_files(room.partial, "shards/*.jsonl")
    assert done == after // 4 or done == after // 4 - 1 or done == after // 3
    again = []

    def note(path, *settings):
        again.append(path.name)
        return examine(path, *settings)

    monkeypatch.setattr(shards, "examine", note)
    room.prepare()
    kept = 32 - len(again)
    assert 0 <= after - kept < 4
    assert set(again) == {path.name for path in room.faces.iterdir()} - set(read[:kept])
    assert tree_hash(room.out) == whole
    assert not room.partial.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (publish, "find_duplicates"),
        (publish, "rewrite_shard"),
        (publish.storage, "size"),
        (publish.tfds.folder_dataset, "write_metadata"),
        (shutil, "rmtree"),
        (publish.os, "rename"),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_stopping_anywhere_between_the_shards_and_the_end(
    room, monkeypatch, whole, module, name, before
):
    function = getattr(module, name)

    def stop(*arguments, **options):
        if name == "rename" and arguments[1] != room.out:
            return function(*arguments)
        if not before:
            function(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        with pytest.raises(Killed):
            room.prepare()
    published = room.out.exists()
    assert published == (name == "rmtree" or (name == "rename" and not before))
    assert not published or tree_hash(room.out) == whole
    room.prepare(force=published)
    assert tree_hash(room.out) == whole
    assert not room.partial.exists()


def test_replacing_a_dataset_never_leaves_less_than_one(room, monkeypatch, whole):
    old = killed_while_replacing(room, monkeypatch)
    assert tree_hash(room.partial / "replaced") == old
    with pytest.raises(FileExistsError):
        room.prepare()
    room.prepare(force=True)
    assert tree_hash(room.out) == whole
    assert not room.partial.exists()


def test_stopping_while_planning(room, monkeypatch, whole):
    with monkeypatch.context() as patch:
        patch.setattr(build, "make_plan", killed)
        with pytest.raises(Killed):
            room.prepare()
    assert not room.partial.exists()
    room.prepare()
    assert tree_hash(room.out) == whole


def interrupt(room, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(build, "finish", killed)
        with pytest.raises(Killed):
            room.prepare()


def test_other_settings_do_not_go_on(room, monkeypatch, whole):
    interrupt(room, monkeypatch)
    with pytest.raises(PrepareError, match=r"size was 16 and is 8.*to resume .* --restart"):
        room.prepare(size=8, min_size=8)
    with pytest.raises(PrepareError, match="file_format was png and is jpeg"):
        room.prepare(file_format="jpeg")
    room.prepare(size=8, min_size=8, restart=True)
    assert read_all(room.out)["000.png"].shape == (8, 8, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda faces: save(faces / "new.png", 99),
        lambda faces: (faces / "000.png").unlink(),
        lambda faces: os.utime(faces / "000.png", (1, 1)),
        lambda faces: (faces / "notes.txt").write_text("also files that are no images"),
    ],
)
def test_other_files_do_not_go_on(room, monkeypatch, whole, change):
    interrupt(room, monkeypatch)
    change(room.faces)
    before = tree_hash(room.partial)
    with pytest.raises(PrepareError, match=r"the files in '.*faces' have changed .* --restart"):
        room.prepare()
    assert tree_hash(room.partial) == before
    room.prepare(restart=True)
    assert not room.partial.exists()


def test_an_existing_folder_is_never_overwritten(room):
    fill(room.faces, 3)
    room.prepare()
    before = tree_hash(room.out)
    with pytest.raises(FileExistsError, match=r"out' exists; give another OUT, or --force"):
        room.prepare(size=8)
    assert tree_hash(room.out) == before
    room.prepare(size=8, force=True)
    assert read_all(room.out)["000.png"].shape == (8, 8, 3)


def test_force_replaces_only_datasets(room):
    fill(room.faces, 3)
    save(room.out / "precious.png")
    with pytest.raises(PrepareError, match=r"is no dataset .* --force does not replace it"):
        room.prepare(force=True)
    assert (room.out / "precious.png").exists()


def test_a_folder_of_somebody_else_in_the_place_of_the_unfinished_build(room):
    fill(room.faces, 3)
    save(room.partial / "precious.png")
    with pytest.raises(PrepareError, match=r"out\.partial' exists and is no unfinished build"):
        room.prepare(restart=True)
    assert (room.partial / "precious.png").exists()


@pytest.mark.parametrize("out", ["faces", "faces/out", "."])
def test_pictures_and_dataset_do_not_mix(room, out):
    fill(room.faces, 3)
    room.out = room.out.parent / out
    with pytest.raises(PrepareError, match="lie within each other"):
        room.prepare(force=True)
    assert len(list(room.faces.iterdir())) == 3


def test_two_builds_at_once(room, monkeypatch, whole):
    interrupt(room, monkeypatch)
    with (
        Staging(room.out).locked(),
        pytest.raises(PrepareError, match=r"another process is writing '.*out\.partial'"),
    ):
        room.prepare(restart=True)
    room.prepare()
    assert tree_hash(room.out) == whole


@pytest.fixture
def full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        yield disk


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_full_disk(room, full_disk, tmp_path, small_shards, workers):
    room.out = full_disk / "out"
    for index in range(40):
        save(room.faces / f"{index}.png", index, height=160, width=160)
    with pytest.raises(OSError, match=r"No space left on device(?s:.*)give the same command again"):
        room.prepare(size=160, workers=workers)
    assert not room.out.exists()
    done = count_files(room.partial, "shards/*.jsonl")
    assert done >= 1
    assert count_files(room.partial, "shards/.*.tmp") == 0
    subprocess.run(["mount", "-o", "remount,size=64m", str(full_disk)], check=True)
    room.prepare(size=160, workers=workers)
    assert len(read_all(room.out)) == 40
    elsewhere = tmp_path / "elsewhere"
    build.prepare([room.faces], elsewhere, size=160, workers=0)
    assert tree_hash(elsewhere) == tree_hash(room.out)


def test_a_worker_that_is_killed_is_reported(room, monkeypatch):
    fill(room.faces, 3)
    monkeypatch.setattr(build, "build_shard", die)
    with pytest.raises(OSError, match="a worker process was killed"):
        room.prepare(workers=1)
    assert not room.out.exists()


@pytest.mark.slow
def test_duplicates_are_taken_out_by_the_processes(room, monkeypatch, whole):
    used = []

    def note(function, jobs, workers, bar):
        used.append((function.__name__, workers))
        workers_run(function, jobs, workers, bar)

    workers_run = publish.run
    monkeypatch.setattr(publish, "run", note)
    room.prepare(workers=2)
    assert used == [("rewrite_shard", 2)]
    assert tree_hash(room.out) == whole


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_takes_out_duplicates(room, monkeypatch, whole):
    interrupt(room, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(publish, "rewrite_shard", die)
        with pytest.raises(OSError, match="a worker process was killed"):
            room.prepare(workers=2)
    assert not room.out.exists()
    room.prepare(workers=2)
    assert tree_hash(room.out) == whole


@pytest.fixture
def heeding_ctrl_c():
    """Tests in the background of a script ignore Ctrl-C, and so would the commands they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start_command(room):
    options = ["--size", "256", "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "codeformer_jax.cli", "prepare", room.faces, room.out, *options],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def begun(room):
    """Names of the files that are being written, or were when their writer was killed."""
    return {path.name for path in (room.partial / "shards").glob(".*.tmp")}


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_and_ctrl_c_in_mid_build(room, tmp_path, heeding_ctrl_c):
    room.faces.mkdir()
    for index in range(900):  # Enough to be interrupted in, on a fast machine too.
        image = Image.fromarray(picture(index, 16, 16)).resize((256, 256))
        image.save(room.faces / f"{index}.jpg", quality=90)

    command = start_command(room)
    wait_for(lambda: len(begun(room)) == 4, "begun shards")
    left = begun(room)
    workers = psutil.Process(command.pid).children(recursive=True)
    assert len(workers) >= 2
    os.kill(command.pid, signal.SIGKILL)
    command.communicate()
    wait_for(lambda: not any(map(alive, workers)), "end of the workers")
    assert not room.out.exists()

    for _ in range(5):
        command = start_command(room)
        wait_for(lambda left=left: begun(room) - left, "begun shards")
        os.killpg(command.pid, signal.SIGINT)
        _, err = command.communicate(timeout=60)
        if command.returncode:
            break
        # On a busy machine it may have ended before the signal came: once more, from the start.
        shutil.rmtree(room.out)
        left = set()
    assert command.returncode == 130
    assert f"interrupted; nothing is published; what is done is kept in '{room.partial}'" in err
    assert "Traceback" not in err
    assert not room.out.exists()
    assert not begun(room)

    command = start_command(room)
    command.communicate(timeout=120)
    assert command.returncode == 0
    build.prepare([room.faces], tmp_path / "alone", size=256, workers=0)
    assert tree_hash(tmp_path / "alone") == tree_hash(room.out)
    assert rejected(room.out) == {}
