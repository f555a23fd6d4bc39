"""The same dataset by an Apache Beam pipeline, and in buckets."""

import subprocess
import sys
import types

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from prepare.support import Killed, fill, killed, read_all, rejected, save, tree_hash

from codeformer_jax.prepare import build
from codeformer_jax.prepare.staging import PrepareError

BEAM = "Apache Beam is not installed: pip install -e '.[beam]' -c constraints.txt"


class Bucket(MemoryFileSystem):
    """An object store: no folders but those that names imply, no renaming of folders."""

    protocol = ("s3",)
    store: dict = {}  # noqa: RUF012  As the class above has them: shared by all instances.
    pseudo_dirs: list = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("s3://").strip("/")

    def mkdir(self, path, create_parents=True, **_):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def exists(self, path, **_):
        path = self._strip_protocol(path)
        return path in self.store or any(name.startswith(path + "/") for name in self.store)


@pytest.fixture
def bucket(monkeypatch):
    """A folder of pictures in a bucket, as fsspec shows it."""
    monkeypatch.setitem(sys.modules, "s3fs", types.ModuleType("s3fs"))
    fsspec.register_implementation("s3", Bucket, clobber=True)
    Bucket.store.clear()
    yield fsspec.filesystem("s3")
    Bucket.store.clear()


def upload(bucket, folder, target):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.pipe_file(f"{target}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def download(bucket, source, folder):
    folder.mkdir()
    for path in bucket.find(source):
        (folder / path.rsplit("/", 1)[1]).write_bytes(bucket.cat_file(path))
    return folder


def some_pictures(faces):
    fill(faces, 20)
    save(faces / "a b" / "ünï.png", 100)
    save(faces / "copy.png", 3)
    (faces / "bad.png").write_text("no picture")
    (faces / "zero.jpg").touch()
    (faces / ".hidden.png").touch()


def test_beam_makes_the_same_bytes(room, tmp_path, small_shards):
    pytest.importorskip("apache_beam", reason=BEAM)
    some_pictures(room.faces)
    room.prepare()
    build.prepare([room.faces], tmp_path / "beam", size=16, beam_args=["--runner=DirectRunner"])
    assert tree_hash(tmp_path / "beam") == tree_hash(room.out)


@pytest.mark.slow
def test_the_command_with_options_for_the_pipeline(room, tmp_path):
    pytest.importorskip("apache_beam", reason=BEAM)
    some_pictures(room.faces)
    room.prepare()
    command = ["prepare", room.faces, tmp_path / "beam", "--size", "16", "--beam-args"]
    done = subprocess.run(
        [sys.executable, "-m", "codeformer_jax.cli", *command, "--direct_num_workers=2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert tree_hash(tmp_path / "beam") == tree_hash(room.out)


@pytest.mark.parametrize("by", [[], ["--runner=DirectRunner"]])
def test_buckets_for_pictures_and_dataset(room, bucket, tmp_path, small_shards, by):
    if by:
        pytest.importorskip("apache_beam", reason=BEAM)
    some_pictures(room.faces)
    room.prepare()
    upload(bucket, room.faces, "s3://data/faces")
    summary = build.prepare(
        ["s3://data/faces"], "s3://data/sets/out", size=16, workers=0, beam_args=by or None
    )
    assert sum(summary.splits.values()) == 21
    made = download(bucket, "s3://data/sets/out", tmp_path / "made")
    assert tree_hash(made) == tree_hash(room.out)
    assert not bucket.exists("s3://data/sets/out.partial")
    assert rejected(made)["zero.jpg"] == ("unreadable", "the file is empty")
    with pytest.raises(FileExistsError, match="s3://data/sets/out' exists"):
        build.prepare(["s3://data/faces"], "s3://data/sets/out", size=16, workers=0)


def test_an_interrupted_build_in_a_bucket_goes_on(
    room, bucket, monkeypatch, tmp_path, small_shards
):
    some_pictures(room.faces)
    room.prepare()
    upload(bucket, room.faces, "s3://data/faces")
    arguments = (["s3://data/faces"], "s3://data/out")
    moved = []

    def stop(source, target, **options):
        if "s3://data/out/" in str(target):
            moved.append(target)
            if len(moved) == 3:
                raise KeyboardInterrupt
        return copy(source, target, **options)

    place = type(epath.Path("s3://data"))
    copy = place.copy
    with monkeypatch.context() as patch:
        patch.setattr(place, "copy", stop)
        with pytest.raises(KeyboardInterrupt):
            build.prepare(*arguments, size=16, workers=0)
    assert len(bucket.find("s3://data/out")) == 2
    assert not bucket.exists("s3://data/out/dataset_info.json")
    build.prepare(*arguments, size=16, workers=0)
    assert tree_hash(download(bucket, "s3://data/out", tmp_path / "made")) == tree_hash(room.out)
    bucket.pipe_file("s3://data/faces/new.png", (room.faces / "000.png").read_bytes())
    build.prepare(*arguments, size=16, workers=0, force=True)
    assert not bucket.exists("s3://data/out.partial")


def test_a_kill_before_the_plan_leaves_a_bucket_usable(room, bucket, monkeypatch):
    some_pictures(room.faces)
    upload(bucket, room.faces, "s3://data/faces")
    arguments = (["s3://data/faces"], "s3://data/out")
    with monkeypatch.context() as patch:
        patch.setattr(build, "resume_or_start", killed)
        patch.setattr(Bucket, "rm", killed)  # Nor does the process tidy up.
        patch.setattr(Bucket, "rm_file", killed)
        with pytest.raises(Killed):
            build.prepare(*arguments, size=16, workers=0)
    assert bucket.find("s3://data/out.partial")
    build.prepare(*arguments, size=16, workers=0)
    assert bucket.exists("s3://data/out/dataset_info.json")
    assert not bucket.exists("s3://data/out.partial")


def test_somebody_elses_files_in_a_bucket(room, bucket):
    fill(room.faces, 2)
    bucket.pipe_file("s3://data/out.partial/precious", b"1")
    with pytest.raises(PrepareError, match="is no unfinished build"):
        build.prepare([room.faces], "s3://data/out", size=16, workers=0, restart=True)
    assert bucket.find("s3://data/out.partial") == ["/data/out.partial/precious"]


def test_a_bucket_without_the_folder(bucket):
    with pytest.raises(FileNotFoundError, match="no image folder 's3://data/faces'"):
        build.prepare(["s3://data/faces"], "s3://data/out", workers=0)
    assert not bucket.exists("s3://data/out.partial")


def test_a_shard_that_fails_under_beam(room, monkeypatch, small_shards):
    pytest.importorskip("apache_beam", reason=BEAM)
    some_pictures(room.faces)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("codeformer_jax.prepare.shards.examine", fail)
        with pytest.raises(
            OSError, match=r"No space left(?s:.*)give the same command again to resume"
        ):
            room.prepare(beam_args=[])
    assert not room.out.exists()
    room.prepare(beam_args=[])
    assert len(read_all(room.out)) == 21


def test_without_beam(room, monkeypatch):
    fill(room.faces, 2)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(PrepareError, match=r"pip install 'codeformer-jax\[beam\]'"):
        room.prepare(beam_args=[])
    assert not room.out.exists()
