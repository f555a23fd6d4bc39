"""Checks of a workdir on disk or in a bucket: each process writes, lists, reads and deletes."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax

from codeformer_jax.system import hosts, storage
from codeformer_jax.system.atomic import atomic_path
from codeformer_jax.system.workers import exclusive
from codeformer_jax.train.doctor import finding
from codeformer_jax.train.doctor.finding import ENOUGH, Finding, Report, limited

# Bytes per second of storage that is slow, but does not hang.
SLOW = 10e6
_RATES = ("write", "read")
_OTHER = "give another --workdir, which all processes share"
_ONE_RUN = "start only one run at a time in a workdir"


def check_workdir(workdir: str, size: int, report: Report) -> list[Finding]:
    """Writes, replaces, lists, reads, deletes and locks files beside those of a run.

    Each process reads what the next one has written. The report has the slowest process.

    Args:
        workdir: the folder; on a disk, if it does not exist, the nearest parent is used.
        size: bytes to write. At `SLOW` bytes per second storage does not count as hanging.
        report: takes lines.
    """
    folder = storage.to_path(workdir, "workdir")
    storage.check_workdir(folder)
    remote = storage.is_remote(folder)
    with limited("opening of the workdir"):
        folder = folder if remote else existing(folder)
        # The first process decides; a disk that the others do not share is found below.
        own = [os.fspath(folder), secrets.token_hex(8), remote or folder.is_dir()]
        parent, name, usable = hosts.from_main("folder of the check", lambda: own)
    if not usable:
        return [Finding(f"workdir={workdir}: {parent} is not a folder", _OTHER)]
    report(f"workdir    writing {size >> 20} MiB to {parent} ...")
    check = _Check(workdir, storage.to_path(parent) / f".doctor.{name}", size)
    try:
        found = check.run()
    finally:
        check.clean()
    if "delete" in check.seconds:  # The last step.
        free = "" if remote else f", {shutil.disk_usage(folder).free / 1e9:.1f} GB free"
        report(f"           {_speeds(check, size)}{free}")
        found = [*found, *_slow(workdir, check, size)]
    return found


def _speeds(check: "_Check", size: int) -> str:
    rates = (f"{kind} {size / check.seconds[kind] / 1e6:.0f} MB/s" for kind in _RATES)
    times = (f"{kind} {check.seconds[kind] * 1e3:.0f} ms" for kind in ("list", "delete"))
    of = f" with the slowest of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{', '.join((*rates, *times))}{of}"


def _slow(workdir: str, check: "_Check", size: int) -> list[Finding]:
    return [
        Finding(
            f"workdir={workdir} is slow: {kind} {size / check.seconds[kind] / 1e6:.1f} MB/s",
            f"take a bucket in the region of the machines, or {_OTHER}",
        )
        for kind in _RATES
        if size / check.seconds[kind] < SLOW and size >= ENOUGH
    ]


def existing(folder: storage.Path) -> storage.Path:
    """Returns a path on disk, or its nearest parent that exists."""
    return next(x for x in (folder, *folder.absolute().parents) if os.path.exists(x))


class _Check:
    """Files of all processes in a folder that is removed afterwards.

    Attributes:
        found: what is wrong.
        seconds: of each kind of access, by the slowest process.
    """

    def __init__(self, workdir: str, folder: storage.Path, size: int):
        self._workdir, self._folder, self._size = workdir, folder, size
        self._own = folder / str(jax.process_index())
        self._other = folder / str((jax.process_index() + 1) % jax.process_count())
        self._content, self._failed = b"", False
        self.found: list[Finding] = []
        self.seconds: dict[str, float] = {}

    def run(self) -> list[Finding]:
        """Takes all steps, up to the first that fails on any process."""
        content = os.urandom(self._size)
        digest = hashlib.sha256(content).hexdigest()
        self._step("create", lambda: self._write(b"older"))
        digests = self._step("write", lambda: self._write(content) or digest)
        self._step("list", self._list)
        self._step("read", self._read)
        if not self._failed:
            if hashlib.sha256(self._content).hexdigest() != digests[int(self._other.name)]:
                self._wrong("a replaced file does not have the new content", _OTHER)
            if not (storage.is_remote(self._folder) or self._locks()):
                self._wrong(
                    "a second run would not be refused: no locks", f"{_ONE_RUN}, or {_OTHER}"
                )
        self._step("delete", self._own.unlink)
        return self.found

    def _step(self, kind: str, act: Callable[[], Any]) -> list[Any]:
        """Takes a step and returns the results of all processes; nothing after a failure of any."""
        if self._failed:
            return []
        error, result = "", None
        with limited(f"{kind} in the workdir", finding.LIMIT + self._size / SLOW):
            start = time.perf_counter()
            try:
                result = act()
            except Exception as raised:  # Of any storage library.
                error = f"{type(raised).__name__}: {raised}"
            own = [time.perf_counter() - start, error, result]
            answers = [json.loads(x) for x in hosts.gather(f"{kind} is done", json.dumps(own))]
        self.seconds[kind] = max(seconds for seconds, _, _ in answers)
        self._failed = any(other for _, other, _ in answers)
        if error:
            self._wrong(
                f"cannot {kind} a file: {error}", f"check its room and permissions, or {_OTHER}"
            )
        return [result for _, _, result in answers]

    def _wrong(self, what: str, remedy: str) -> None:
        self.found.append(Finding(f"workdir={self._workdir}: {what}", remedy))

    def _write(self, content: bytes) -> None:
        with atomic_path(self._own) as temporary:
            temporary.write_bytes(content)

    def _list(self) -> None:
        names = {path.name for path in self._folder.iterdir()}
        if missing := {str(i) for i in range(jax.process_count())} - names:
            raise OSError(f"what process {', '.join(sorted(missing))} has written is not there")

    def _read(self) -> None:
        """Reads the file of the next process, from the disk and not from memory."""
        with self._other.open("rb") as file:
            if not storage.is_remote(self._other) and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self._content = file.read()

    def _locks(self) -> bool:
        """Returns whether a file that is locked cannot be locked again."""
        path = self._folder / f"lock{jax.process_index()}"
        try:
            with limited("locks in the workdir"), exclusive(path), exclusive(path):
                return False
        except BlockingIOError:
            return True
        except OSError:  # A file system without locks.
            return False

    def clean(self) -> None:
        """Removes the folder. All processes have ended their steps."""
        own = hosts.is_main() or not storage.is_remote(self._folder)  # A disk may not be shared.
        with limited("end of the check"), contextlib.suppress(Exception):  # A finding says why.
            if own:
                storage.remove(self._folder)
