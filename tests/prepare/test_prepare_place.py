"""The dataset's place and the folder beside it: what is there is not lost, nor in the way."""

import os
import shutil

import pytest
from prepare.support import Killed, fill, killed, killed_while_replacing, read_all, save, tree_hash

from codeformer_jax import cli
from codeformer_jax.prepare import build, shards
from codeformer_jax.prepare.staging import PrepareError


def interrupted(*_, **__):
    raise KeyboardInterrupt


def while_building(monkeypatch, happens):
    """Calls `happens` when all is done but the publication."""
    finish = build.finish

    def finish_and_more(*arguments):
        made = finish(*arguments)
        happens()
        return made

    monkeypatch.setattr(build, "finish", finish_and_more)


def read_nothing(monkeypatch):
    def read_again(*_):
        raise AssertionError

    monkeypatch.setattr("codeformer_jax.prepare.shards.examine", read_again)


def test_a_folder_that_appears_during_the_build_is_kept(room, monkeypatch):
    fill(room.faces, 3)
    with monkeypatch.context() as patch:
        while_building(patch, lambda: save(room.out / "precious.png"))
        with pytest.raises(OSError, match=r"out' exists(?s:.*)what is done is kept in"):
            room.prepare()
    before = tree_hash(room.partial)
    with pytest.raises(PrepareError, match="is no dataset"):
        room.prepare(force=True)
    assert (room.out / "precious.png").exists()
    assert tree_hash(room.partial) == before
    os.rename(room.out, room.out.with_name("elsewhere"))
    read_nothing(monkeypatch)
    room.prepare()
    assert len(read_all(room.out)) == 3
    assert not room.partial.exists()


def test_force_does_not_replace_a_folder_that_appears_during_the_build(room, monkeypatch):
    fill(room.faces, 3)
    while_building(monkeypatch, lambda: save(room.out / "precious.png"))
    with pytest.raises(PrepareError, match=r"no dataset(?s:.*)move it away"):
        room.prepare(force=True)
    assert (room.out / "precious.png").exists()


def test_a_dataset_that_appears_during_the_build_is_replaced_by_force_alone(room, monkeypatch):
    fill(room.faces, 3)
    room.prepare(size=8)
    other = room.out.with_name("other")
    os.rename(room.out, other)
    with monkeypatch.context() as patch:
        while_building(patch, lambda: shutil.copytree(other, room.out))
        with pytest.raises(OSError, match=r"or --force to replace(?s:.*)what is done is kept in"):
            room.prepare()
    assert tree_hash(room.out) == tree_hash(other)
    read_nothing(monkeypatch)
    room.prepare(force=True)
    assert read_all(room.out)["000.png"].shape == (16, 16, 3)


@pytest.fixture
def aside(room, monkeypatch):
    """The hash of a dataset that `--force` has moved aside when it was killed."""
    fill(room.faces, 3)
    return killed_while_replacing(room, monkeypatch)


def test_restart_after_a_kill_between_the_renames_puts_the_old_dataset_back(
    room, monkeypatch, aside
):
    with monkeypatch.context() as patch:
        patch.setattr(build, "run", killed)
        with pytest.raises(Killed):
            room.prepare(force=True, restart=True)
    assert tree_hash(room.out) == aside
    room.prepare(force=True)
    assert read_all(room.out)["000.png"].shape == (16, 16, 3)


def test_restart_without_force_does_not_replace_what_it_has_put_back(room, aside):
    with pytest.raises(FileExistsError, match=r"out' exists"):
        room.prepare(restart=True)
    assert tree_hash(room.out) == aside


def test_a_kill_between_the_renames_and_a_newer_dataset(room, aside):
    build.prepare([room.faces], room.out.with_name("new"), size=8, workers=0)
    os.rename(room.out.with_name("new"), room.out)
    room.prepare(force=True)
    assert read_all(room.out)["000.png"].shape == (16, 16, 3)
    assert not room.partial.exists()


def test_tidying_up_that_is_killed_is_in_nobodys_way(room, monkeypatch):
    fill(room.faces, 3)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            room.prepare()
    assert room.partial.exists()
    assert not (room.partial / "plan.json").exists()
    first = tree_hash(room.out)
    assert room.prepare(force=True).splits
    assert tree_hash(room.out) == first
    assert not room.partial.exists()


def test_a_kill_before_the_folder_of_the_build_is_marked(room):
    fill(room.faces, 3)
    room.partial.mkdir()
    room.prepare()
    assert not room.partial.exists()


def test_a_file_in_the_place_of_the_folder_of_the_build(room):
    fill(room.faces, 3)
    room.partial.write_text("precious")
    with pytest.raises(PrepareError, match="is no unfinished build"):
        room.prepare(restart=True)
    assert room.partial.read_text() == "precious"


def command(room, *options):
    arguments = [str(room.faces), str(room.out), "--size", "16", "--workers", "0", *options]
    return cli.main(["prepare", *arguments])


def test_what_an_interruption_says(room, monkeypatch, capsys):
    fill(room.faces, 3)
    with monkeypatch.context() as patch:
        patch.setattr(build, "make_plan", interrupted)
        assert command(room) == 130
    assert capsys.readouterr().err == ""  # As of every command that has nothing to resume.
    assert not room.partial.exists()
    with monkeypatch.context() as patch:
        patch.setattr(build, "run", interrupted)
        assert command(room) == 130
        error = capsys.readouterr().err
        assert "nothing is published" in error
        assert "same command again to resume" in error
        assert "--restart" not in error
        assert command(room, "--restart") == 130
        assert "again, without --restart, to resume" in capsys.readouterr().err


def test_what_an_error_after_the_publication_says(room, monkeypatch, capsys):
    fill(room.faces, 3)

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        assert command(room) == 2
    error = capsys.readouterr().err
    assert f"'{room.out}' is published and complete; '{room.partial}' could not" in error
    assert "Input/output error" in error
    assert "nothing is published" not in error


def test_a_failed_replacement_puts_the_old_dataset_back(room, monkeypatch):
    fill(room.faces, 3)
    room.prepare()
    before, rename = tree_hash(room.out), os.rename

    def fail(source, target):
        if str(source).endswith("dataset"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    save(room.faces / "new.png", 9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(OSError, match="nothing is published"):
            room.prepare(force=True)
    assert tree_hash(room.out) == before
    room.prepare(force=True)
    assert len(read_all(room.out)) == 4


@pytest.mark.parametrize("fails", ["__init__", "write", "close"])
def test_errors_of_the_record_writer_name_the_file(monkeypatch, fails):
    class Writer:
        def __init__(self, *_):
            self.call("__init__")

        def call(self, name):
            if name == fails:
                raise RuntimeError("disk full")

        def write(self, _):
            self.call("write")

        def close(self):
            self.call("close")

    monkeypatch.setattr(shards.array_record_module, "ArrayRecordWriter", Writer)
    with (
        pytest.raises(OSError, match=r"cannot write 'a\.array_record': disk full"),
        shards.record_writer("x/a.array_record", "png") as writer,
    ):
        writer.write(b"")
    if fails == "close":  # It hides no error of the body.
        with pytest.raises(RuntimeError, match="other"), shards.record_writer("a", "png"):
            raise RuntimeError("other")
