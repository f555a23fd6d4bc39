"""How commands begin, with huge pages where they help, and end, whatever is still under way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from codeformer_jax.system import process

ROOT = Path(__file__).resolve().parents[2]
ASKED = "glibc.malloc.hugetlb=1"
SCRIPT = """
import json, os, sys
from codeformer_jax import process
starts = os.environ["STARTS"] = os.environ.get("STARTS", "") + f" {os.getpid()}"
process.use_huge_pages()
tunables = os.environ.get("GLIBC_TUNABLES", "")
print(json.dumps([starts.split(), tunables, sys.argv[1:], sys.stdin.read()]))
"""


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """(the kernel's file, tunables, C library, options) -> (command, tunables) of second starts."""

    def begin(
        kernel="always [madvise] never",
        tunables=None,
        library="glibc 2.36",
        executable="/bin/python",
        options=(),
        script=True,
    ):
        pages, started = tmp_path / "enabled", []
        if kernel is not None:
            pages.write_text(kernel)
        monkeypatch.setattr(process, "_PAGES", pages)
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
        if tunables is not None:
            monkeypatch.setenv("GLIBC_TUNABLES", tunables)
        monkeypatch.setattr(os, "confstr", lambda name: library)
        monkeypatch.setattr(sys, "executable", executable)
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "some.command", "--flag"])
        monkeypatch.setattr(sys, "_xoptions", dict.fromkeys(options, True))
        monkeypatch.setattr(process, "_is_script", lambda: script)

        def execve(path, command, environment):
            assert path == command[0]
            started.append((command, environment["GLIBC_TUNABLES"]))

        monkeypatch.setattr(os, "execve", execve)
        process.use_huge_pages()
        return started

    return begin


def test_a_command_asks_for_huge_pages(begin):
    before = os.environ.get("GLIBC_TUNABLES")
    again = ["/bin/python", "-X", process._AGAIN, "-m", "some.command", "--flag"]
    assert begin() == [(again, ASKED)]
    assert os.environ.get("GLIBC_TUNABLES") in (None, before)


def test_other_settings_stay(begin):
    (_, tunables) = begin(tunables="glibc.malloc.arena_max=4")[0]
    assert tunables == f"glibc.malloc.arena_max=4:{ASKED}"


@pytest.mark.parametrize(
    "where",
    [
        {"tunables": ASKED},
        {"tunables": "glibc.malloc.hugetlb=0"},
        {"kernel": "[always] madvise never"},
        {"kernel": "always madvise [never]"},
        {"kernel": None},
        {"library": "glibc 2.34"},
        {"library": "musl 1.2"},
        {"executable": ""},
        {"options": [process._AGAIN]},
        {"script": False},
    ],
)
def test_nothing_is_started_again_where_it_would_not_help(where, begin):
    assert begin(**where) == []


def run_script(command, typed):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    return subprocess.run(
        [sys.executable, *command],
        input=typed,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout


def test_process_arguments_and_input_stay(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(SCRIPT)
    starts, tunables, arguments, typed = json.loads(
        run_script([str(script), "--some=argument", "two words"], "typed")
    )
    helps = process._on_request() and process._glibc() >= (2, 35)
    assert len(set(starts)) == 1
    assert (len(starts), tunables) == ((2, ASKED) if helps else (1, ""))
    assert arguments == ["--some=argument", "two words"]
    assert typed == "typed"


def test_a_program_that_cannot_be_read_twice_goes_on():
    assert len(json.loads(run_script(["-"], SCRIPT))[0]) == 1


# A thread that nobody can stop, and clean-up that must not come while it is at work.
ENDING = """
import atexit, sys, threading, time
from codeformer_jax import process
atexit.register(lambda: print("cleaned up"))
name = process.LEFT_BEHIND if {left} else None
thread = threading.Thread(target=time.sleep, args=(60 if {left} else 0,), name=name)
thread.start()
print("done")
with process.ending():
    {end}
"""


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    ("code", "status", "message"),
    [(None, 0, ""), (0, 0, ""), (130, 130, ""), ("'error: no'", 1, "error: no\n")],
)
def test_the_exit_code_is_the_same_with_a_thread_left_behind(left, code, status, message):
    done = run_ending(left, f"sys.exit({code})")
    assert (done.returncode, done.stderr) == (status, message)
    assert done.stdout == ("done\n" if left else "done\ncleaned up\n")


@pytest.mark.parametrize("left", [True, False])
def test_so_is_an_error(left):
    done = run_ending(left, "raise RuntimeError('of the device')")
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: of the device\n")
    assert done.stdout == ("done\n" if left else "done\ncleaned up\n")


def run_ending(left, end):
    return subprocess.run(
        [sys.executable, "-c", ENDING.format(left=left, end=end)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_nobody_has_to_read_the_last_words():
    """`train.py | tee log` and Ctrl-C, which ends tee, too."""
    late = 'time.sleep(1); print("x")'
    script = ENDING.format(left=True, end="sys.exit(130)").replace('print("done")', late)
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=buffered) as child:
        child.stdout.close()
        assert child.wait(timeout=30) == 130


FAILED = (
    "Unable to initialize backend 'x': not known (set JAX_PLATFORMS='' to automatically choose)"
)


@pytest.mark.parametrize(
    ("platforms", "error", "said"),
    [
        (
            "x",
            RuntimeError(FAILED),
            "JAX_PLATFORMS=x: JAX cannot compute on such a device here: Un",
        ),
        (
            "cuda",
            AssertionError(),
            "JAX_PLATFORMS=cuda: JAX cannot compute on such a device here. ",
        ),
        ("", RuntimeError(FAILED), "JAX cannot start on the devices of this machine: Unable to in"),
    ],
)
def test_a_platform_that_is_not_here_is_named(platforms, error, said, monkeypatch):
    def devices():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(jax, "devices", devices)
    reason = process.no_devices(error)
    assert reason.startswith(said)
    assert "automatically choose" not in reason
    assert "JAX_PLATFORMS" in reason


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), AssertionError(), ValueError()])
def test_other_errors_are_not_taken_for_it(error):
    assert process.no_devices(error) is None


def test_train_says_that_a_platform_is_not_here(tmp_path):
    command = [
        sys.executable,
        "train.py",
        "--config=configs/demo.py",
        f"--workdir={tmp_path / 'r'}",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: JAX_PLATFORMS=abacus: JAX cannot compute on such a device here")
    assert not list(tmp_path.iterdir())
