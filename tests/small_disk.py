"""A disk that is soon full."""

import contextlib
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(path, size):
    """`path`, a new folder, as a disk of `size` ('1m'); skips the test where none can be made."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root (CAP_SYS_ADMIN)")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
