"""One run at a time in a workdir."""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from codeformer_jax.system import hosts
from codeformer_jax.system.workers import exclusive

LOCK_FILE = ".lock"
# Errors of file systems without locks, such as some mounts of Lustre.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a workdir. The first process holds it for all.

    The file `.lock` names the holder. On exit the file is removed, and so are new folders that are
    still empty. The system releases the lock when the process ends, so a file that a killed run
    leaves blocks nothing.

    Raises:
        OSError: on every process, if another run holds the lock or the workdir cannot be made.
    """
    with contextlib.ExitStack() as stack:
        if refused := hosts.from_main("lock", lambda: _lock(stack, workdir)):
            raise OSError(refused)
        yield


def _lock(stack: contextlib.ExitStack, workdir: Path) -> str:
    """Locks until `stack` is closed. Returns why it cannot, or ''."""
    path = workdir / LOCK_FILE
    try:
        for folder in (*reversed(workdir.parents), workdir):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                stack.callback(_remove_empty, folder)
        file = stack.enter_context(exclusive(path))
    except BlockingIOError:
        holder = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            holder = path.read_text().strip()
        return (
            f"workdir={workdir} is in use by {holder or 'another process'}: wait until that run "
            "has ended, stop it, or give another --workdir"
        )
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return f"workdir={workdir} cannot be written: {error}"
        logging.warning("%s cannot be locked (%s): start only one run in it", path, error)
        path.unlink(missing_ok=True)
        return ""
    stack.callback(path.unlink, missing_ok=True)
    file.truncate(0)
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    file.write(f"process {os.getpid()} on {socket.gethostname()}, started {started}\n")
    file.flush()
    return ""


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
