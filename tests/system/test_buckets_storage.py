"""Files, folders, mirrors and locks in a bucket whose server fails now and then."""

import json
import os
import subprocess
import sys
import threading
import time

import fsspec
import pytest

from codeformer_jax.checkpoints.workdir import saved_steps, unfinished_saves
from codeformer_jax.system import bucket_lock, mirror, storage
from codeformer_jax.system.atomic import atomic_directory, atomic_path
from codeformer_jax.system.lock import LOCK_FILE, locked
from codeformer_jax.system.storage import local_copy, to_path

FOREVER = 1000
BIG = bytes(range(256)) * 4 * 6000  # More than gcsfs uploads in one request.


def wait_until(condition):
    """Returns once a condition holds; fails if it does not within a minute."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def write(path, content):
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"ends in \r", b"a\r\nb\n", BIG], ids=len)
def test_a_file_is_written_and_read(object_store, bucket, content):
    path = to_path(bucket) / "folder" / "file"
    write(path, content)
    assert object_store.read(str(path)) == path.read_bytes() == content
    with local_copy(path) as copy:
        assert copy.read_bytes() == content
        assert copy.name == path.name
    assert not copy.exists()


@pytest.mark.parametrize("content", [b"small", BIG], ids=["one request", "several requests"])
@pytest.mark.parametrize("kind", ["busy", "cut", "lost", "slow"])
def test_an_upload_with_faults_is_repeated(object_store, bucket, waits, kind, content):
    path = to_path(bucket) / "file"
    write(path, b"before")
    fault = object_store.fail(kind, times=3, matching=r"POST /upload", seconds=0.1)
    write(path, content)
    assert object_store.read(str(path)) == content
    assert fault.met
    assert kind == "slow" or len(waits) == len(fault.met)


@pytest.mark.parametrize("kind", ["busy", "torn"])
def test_a_download_with_faults_is_repeated(object_store, bucket, waits, kind):
    path = to_path(bucket) / "file"
    write(path, BIG)
    fault = object_store.fail(kind, times=2, matching=r"alt=media")
    with local_copy(path) as copy:
        assert copy.read_bytes() == BIG
    assert len(fault.met) == len(waits) == 2


@pytest.mark.parametrize("content", [b"small", BIG], ids=["one request", "several requests"])
@pytest.mark.parametrize(("kind", "reason"), [("busy", "503"), ("cut", "Disconnected")])
def test_a_failed_upload_names_the_file_and_leaves_the_old_one(
    object_store, bucket, waits, kind, reason, content
):
    path = to_path(bucket) / "file"
    write(path, b"before")
    object_store.fail(kind, times=FOREVER, matching=r"POST /upload")
    with pytest.raises(OSError, match=reason) as caught:
        write(path, content)
    assert str(path) in str(caught.value)
    assert "<html" not in str(caught.value).lower()
    assert len(waits) >= 5
    assert object_store.names(bucket) == ["file"]
    assert object_store.read(str(path)) == b"before"


def test_a_server_that_does_not_answer_is_named(object_store, bucket, monkeypatch):
    path = to_path(bucket) / "file"
    assert storage.filesystem(path).requests_timeout == 300
    monkeypatch.setattr(storage.filesystem(path), "requests_timeout", 0.2)
    object_store.fail("slow", times=FOREVER, matching=r"POST /upload", seconds=1)
    with pytest.raises(OSError, match=r"file cannot be written: .*Timeout"):
        write(path, b"content")


def test_an_exception_uploads_nothing(object_store, bucket):
    path = to_path(bucket) / "file"

    def interrupted():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert object_store.names(bucket) == []


def test_a_folder_appears_with_its_marker(object_store, bucket, waits):
    folder = to_path(bucket) / "folder"

    def publish(value, fail_after=None):
        with atomic_directory(folder, replace=True, marker="index.json") as local:
            for name in ("a/x", "index.json", "z"):
                (local / name).parent.mkdir(exist_ok=True)
                (local / name).write_text(value)
            if value == "one":
                (local / "old").write_text(value)
            if fail_after is not None:
                options = {"times": FOREVER, "after": fail_after, "matching": "POST /upload"}
                object_store.fail("busy", **options)

    publish("one")
    assert object_store.names(str(folder)) == ["a/x", "index.json", "old", "z"]
    with pytest.raises(OSError, match="z cannot be written"):
        publish("two", fail_after=1)
    assert object_store.read(f"{folder}/a/x") == b"two"
    assert "index.json" not in object_store.names(str(folder))
    object_store.faults.clear()
    object_store.requests.clear()
    publish("three")
    assert {
        name: object_store.read(f"{folder}/{name}") for name in object_store.names(str(folder))
    } == dict.fromkeys(("a/x", "index.json", "z"), b"three")
    uploads = [request for request in object_store.requests if request.startswith("POST /upload")]
    assert len(uploads) == 3


def test_a_folder_that_exists_stays(object_store, bucket):
    folder = to_path(bucket) / "folder"
    write(folder / "file", b"before")
    with pytest.raises(FileExistsError), atomic_directory(folder) as local:
        (local / "file").write_bytes(b"after")
    assert object_store.read(f"{folder}/file") == b"before"


def test_only_the_named_folder_is_removed(object_store, bucket):
    for name in ("1/a", "1/b/c", "10/a", "1.txt"):
        write(to_path(bucket) / name, b"")
    storage.remove(to_path(bucket) / "1")
    storage.remove(to_path(bucket) / "missing")
    assert object_store.names(bucket) == ["1.txt", "10/a"]
    assert storage.files(to_path(bucket)) == [to_path(bucket) / name for name in ("1.txt", "10/a")]
    assert storage.files(to_path(bucket) / "missing") == []


def test_what_others_write_and_remove_is_seen(object_store, bucket):
    folder = to_path(bucket)
    write(folder / "mine", b"")
    assert [path.name for path in folder.iterdir()] == ["mine"]
    # Another process does it, whose client this one does not share.
    other = fsspec.get_filesystem_class("gs")(skip_instance_cache=True)
    other.pipe_file(f"{bucket}/theirs", b"")
    other.rm_file(f"{bucket}/mine")
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert not (folder / "mine").exists()


def test_empty_objects_that_consoles_make_for_folders_are_no_files(object_store, bucket):
    workdir = to_path(bucket)
    write(workdir / "checkpoints" / "2" / "commit_success.txt", b"")
    for name in ("", "checkpoints/", "photos/"):
        object_store.put(f"{bucket}/{name}")
    assert storage.files(workdir) == [workdir / "checkpoints" / "2" / "commit_success.txt"]
    assert (saved_steps(workdir), unfinished_saves(workdir)) == ([2], [])


def test_a_checkpoint_counts_once_it_is_complete(bucket):
    workdir = to_path(bucket)
    assert saved_steps(workdir) == unfinished_saves(workdir) == []
    for name in ("2/default/x", "2/commit_success.txt", "10/commit_success.txt", "12/default/x"):
        write(workdir / "checkpoints" / name, b"")
    assert saved_steps(workdir) == [2, 10]
    assert [path.name for path in unfinished_saves(workdir)] == ["12"]


class TestMirror:
    def test_files_are_uploaded_and_continued(self, object_store, bucket):
        first = mirror.Mirror(to_path(bucket))
        path = first.continued("metrics.jsonl")
        path.write_text("1\n")
        first.push()
        assert object_store.read(f"{bucket}/metrics.jsonl") == b"1\n"
        (first.folder / "images").mkdir()
        (first.folder / "images" / "1.png").write_bytes(b"png")
        first.close()
        assert object_store.names(bucket) == ["images/1.png", "metrics.jsonl"]
        second = mirror.Mirror(to_path(bucket))
        with second.continued("metrics.jsonl").open("a") as file:
            file.write("2\n")
        second.close()
        assert object_store.read(f"{bucket}/metrics.jsonl") == b"1\n2\n"

    def test_only_changes_are_uploaded(self, object_store, bucket):
        local = mirror.Mirror(to_path(bucket))
        (local.folder / "a").write_text("1")
        local.push()
        (local.folder / "b").write_text("1")
        object_store.requests.clear()
        local.close()
        uploads = [x for x in object_store.requests if x.startswith("POST /upload")]
        assert len(uploads) == 1

    def test_a_file_may_grow_within_its_upload(self, object_store, bucket):
        local = mirror.Mirror(to_path(bucket))
        path = local.continued("events")
        path.write_bytes(BIG)
        # The first request of a large upload names its size; the file grows before the second.
        fault = object_store.fail("slow", matching="uploadType=resumable", seconds=0.5)
        thread = threading.Thread(target=local.push)
        thread.start()
        wait_until(lambda: fault.met)
        with path.open("ab") as file:
            file.write(b"more")
        thread.join()
        assert object_store.read(f"{bucket}/events") == BIG
        local.close()
        assert object_store.read(f"{bucket}/events") == BIG + b"more"

    def test_an_upload_that_fails_is_repeated(
        self, object_store, bucket, waits, monkeypatch, caplog
    ):
        monkeypatch.setattr(mirror, "EVERY", 0.05)
        fault = object_store.fail("busy", times=6, matching="POST /upload")
        local = mirror.Mirror(to_path(bucket))
        (local.folder / "metrics.jsonl").write_text("1\n")
        wait_until(lambda: object_store.names(bucket))
        assert object_store.names(bucket) == ["metrics.jsonl"]
        assert len(fault.met) == 6
        assert "metrics.jsonl" in caplog.text
        local.close()


class TestLock:
    @pytest.fixture(autouse=True)
    def _fast(self, monkeypatch):
        monkeypatch.setattr(bucket_lock, "BEAT", 0.2)
        monkeypatch.setattr(bucket_lock, "SILENCE", 0.6)

    def elsewhere(self, path, **changes):
        """Writes the lock of a process on another machine."""
        content = {"holder": "process 7 on far", "host": "far", "process": 7, "token": "t"}
        path.write_text(json.dumps(content | changes))

    @pytest.fixture
    def alive(self, bucket, monkeypatch):
        """A lock that another machine holds and soon renews."""
        monkeypatch.setattr(bucket_lock, "SILENCE", 60)
        path = to_path(bucket) / LOCK_FILE
        self.elsewhere(path)
        beat = threading.Timer(0.3, self.elsewhere, (path,), {"beat": 1})
        beat.start()
        yield path
        beat.join()

    def test_a_lock_is_held_and_released(self, object_store, bucket):
        path = to_path(bucket) / ".lock"
        with bucket_lock.held(path, "me"):
            first = path.read_text()
            assert json.loads(first)["holder"] == "me"
            wait_until(lambda: path.read_text() != first)  # It is renewed.
        assert object_store.names(bucket) == []

    def test_a_live_holder_keeps_it(self, alive):
        with (
            pytest.raises(BlockingIOError, match="process 7 on far"),
            bucket_lock.held(alive, "me"),
        ):
            pass
        assert json.loads(alive.read_text())["host"] == "far"

    def test_a_second_run_is_refused(self, alive):
        reason = f"workdir={alive.parent} is in use by process 7 on far: wait until"
        with pytest.raises(OSError, match=reason), locked(alive.parent):
            pass

    def test_a_silent_holder_loses_it(self, bucket):
        path = to_path(bucket) / ".lock"
        self.elsewhere(path)
        began = time.monotonic()
        with bucket_lock.held(path, "me"):
            assert time.monotonic() - began >= bucket_lock.SILENCE
            assert json.loads(path.read_text())["holder"] == "me"

    def test_the_file_of_a_killed_run_on_disk_is_taken_over(self, bucket):
        path = to_path(bucket) / ".lock"
        path.write_text("process 7 on far, started 2026-01-01\n")
        with bucket_lock.held(path, "me"):
            assert json.loads(path.read_text())["holder"] == "me"

    def test_a_process_of_another_container_may_be_alive(self):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        found = {"host": bucket_lock._host(), "process": ended.pid}
        assert bucket_lock._ended_here(found)
        assert not bucket_lock._ended_here(found | {"process": os.getpid()})
        assert not bucket_lock._ended_here(found | {"host": f"{found['host']}0"})

    def test_of_several_starts_one_gets_it(self, bucket):
        path = to_path(bucket) / ".lock"
        results, barrier, done = [], threading.Barrier(4), threading.Event()

        def start(number):
            barrier.wait()
            try:
                with bucket_lock.held(path, f"number {number}"):
                    results.append("held")
                    done.wait(60)
            except BlockingIOError as error:
                results.append(str(error))

        threads = [threading.Thread(target=start, args=(i,), name=str(i)) for i in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(results) == 4)
        finally:
            done.set()
        for thread in threads:
            thread.join()
        refusals = [result for result in results if result != "held"]
        assert len(results) == 4
        assert len(refusals) == 3
        assert len(set(refusals)) == 1  # They name the same holder.

    @pytest.mark.parametrize("released", [False, True])
    def test_a_holder_that_lost_it_ends(self, bucket, monkeypatch, capfd, released):
        ended = threading.Event()

        def end():
            ended.set()
            raise RuntimeError("the process ends here")

        monkeypatch.setattr("codeformer_jax.system.peers.end_within", lambda seconds: None)
        monkeypatch.setattr("codeformer_jax.system.peers.end", end)
        path = to_path(bucket) / ".lock"
        with bucket_lock.held(path, "me"):
            storage.remove(path) if released else self.elsewhere(path)
            assert ended.wait(60)
        other = "another process" if released else "process 7 on far"
        assert f"{other} has taken over" in capfd.readouterr().err
        assert path.exists() != released
        assert released or json.loads(path.read_text())["host"] == "far"

    @pytest.mark.parametrize("kind", ["busy", "cut", "lost"])
    def test_faults_do_not_make_it_seem_taken(self, object_store, bucket, waits, kind):
        fault = object_store.fail(kind, matching="ifGenerationMatch=0")
        with bucket_lock.held(to_path(bucket) / ".lock", "me"):
            assert fault.met
            assert object_store.names(bucket) == [".lock"]
