"""Checks of the machines of several processes, by the command."""

import re

import pytest
from launching import finish, launch

# Runs the command; a fault holds for process 1.
PROCESS = """
import sys
from codeformer_jax import cli
from codeformer_jax.train.doctor import data, machine, workdir
from tiny import tiny_vqvae

fault, *arguments = sys.argv[1:]
machine.ACCELERATORS = {}
if fault and "--process=1" in arguments:
    exec(fault)
if __name__ == "__main__":
    sys.exit(cli.main(arguments))
"""
CONFIG = """
from tiny import tiny_vqvae

def get_config():
    config = tiny_vqvae().unlock()
    config.mesh = "slice:2,data:-1"
    config.data.batch_size = 8
    return config.lock()
"""


def two_processes(folder, *arguments, fault="", code=0):
    """The report of the command, run by two processes of two devices."""
    (folder / "process.py").write_text(PROCESS)
    own = ("--coordinator={0}", "--processes=2", "--process={1}", "--megabytes=1")
    words = (folder / "process.py", fault, "doctor", *arguments, *own)
    first, second = finish(launch(*words), code)
    assert "versions" not in second
    return first


@pytest.mark.slow
def test_two_processes_check_links_workdir_and_data_together(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    config, run = tmp_path / "config.py", tmp_path / "run"
    text = two_processes(tmp_path, f"--config={config}", f"--workdir={run}")
    assert "devices    4 x cpu, 2 processes on 1 machine" in text
    assert "mesh       slice:2,data:2,fsdp:1" in text
    assert "links      all-reduce over slice: 2 devices inside a machine" in text
    assert "links      all-reduce over data: 2 devices inside a machine" in text
    assert re.search(r"delete \d+ ms with the slowest of 2 processes, ", text)
    assert "images/s alone with the slowest process" in text
    assert re.search(r"step       [\d.]+ s for 8 images", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.py", "process.py"]


@pytest.mark.slow
def test_two_processes_check_a_bucket(tmp_path, bucket):
    text = two_processes(tmp_path, f"--workdir={bucket}/run")
    assert f"workdir    writing 1 MiB to {bucket}/run ..." in text
    assert re.search(r"delete \d+ ms with the slowest of 2 processes\n", text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("machine.PACKAGES = ('jax',)", r"process 1 \(.*\) has flax missing \(process 0: "),
        (
            "main = workdir.hosts.from_main\n"
            "workdir.hosts.from_main = lambda *a: [OTHER, *main(*a)[1:]]",
            "workdir=.*: cannot list a file: OSError: what process 1 has written is not there",
        ),
        (
            "def read(_): raise OSError('stale handle')\nworkdir._Check._read = read",
            "process 1: workdir=.*: cannot read a file: OSError: stale handle",
        ),
    ],
)
def test_what_is_wrong_on_one_of_two_processes_is_in_the_report(tmp_path, fault, what):
    other, run = tmp_path / "other", tmp_path / "run"
    other.mkdir()
    fault = fault.replace("OTHER", repr(str(other)))
    text = two_processes(tmp_path, f"--workdir={run}", fault=fault, code=1)
    assert re.search(what, text), text
    assert not list(other.iterdir())
    assert not run.exists()
