"""One run at a time in a workdir."""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator

from codeformer_jax.system import bucket_lock, hosts, storage
from codeformer_jax.system.workers import exclusive

LOCK_FILE = ".lock"
# Errors of file systems without locks, such as some mounts of Lustre.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(workdir: storage.Path) -> Iterator[None]:
    """Holds the lock of a workdir. The first process holds it for all.

    The file `.lock` names the holder. On exit the file is removed, and so are new folders that are
    still empty. The system releases the lock when the process ends, so a file that a killed run
    leaves blocks nothing.

    A bucket has no locks: see `bucket_lock`.

    Raises:
        OSError: on every process, if another run holds the lock or the workdir cannot be made.
    """
    with contextlib.ExitStack() as stack:
        if refused := hosts.from_main("lock", lambda: _lock(stack, workdir)):
            raise OSError(refused)
        yield


def _lock(stack: contextlib.ExitStack, workdir: storage.Path) -> str:
    """Locks until `stack` is closed. Returns why it cannot, or ''."""
    path = workdir / LOCK_FILE
    if storage.is_remote(workdir):
        return _lock_bucket(stack, workdir)
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
        return _in_use(workdir, holder)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return f"workdir={workdir} cannot be written: {error}"
        logging.warning("%s cannot be locked (%s): start only one run in it", path, error)
        path.unlink(missing_ok=True)
        return ""
    stack.callback(path.unlink, missing_ok=True)
    with contextlib.suppress(OSError):  # The disk may be full; a save will say so.
        file.truncate(0)
        os.write(file.fileno(), f"{_myself()}\n".encode())
    return ""


def _lock_bucket(stack: contextlib.ExitStack, workdir: storage.Path) -> str:
    try:
        stack.enter_context(bucket_lock.held(workdir / LOCK_FILE, _myself()))
    except BlockingIOError as error:
        return _in_use(workdir, str(error))
    except FileNotFoundError:
        return f"workdir={workdir} cannot be written: no such bucket"
    except Exception as error:  # The clients of buckets have errors of their own.
        return f"workdir={workdir} cannot be written: {error}"
    return ""


def _myself() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return f"process {os.getpid()} on {socket.gethostname()}, started {started}"


def _in_use(workdir: storage.Path, holder: str) -> str:
    return (
        f"workdir={workdir} is in use by {holder or 'another process'}: wait until that run "
        "has ended, stop it, or give another --workdir"
    )


def _remove_empty(folder: storage.Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
