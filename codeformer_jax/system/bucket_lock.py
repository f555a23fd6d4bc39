"""A lock for buckets, which have none: a file that its holder renews.

If the file is not renewed, its holder counts as dead, and the next process takes the lock over. A
holder that was only suspended or cut off finds another token in the file, or no file, and ends.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from codeformer_jax.system import peers, storage

# Seconds between two renewals, and without one after which the holder counts as dead.
BEAT = 10.0
SILENCE = 3 * BEAT


@contextlib.contextmanager
def held(path: storage.Path, holder: str) -> Iterator[None]:
    """Holds a lock. It waits up to `SILENCE` seconds to learn whether an earlier holder is dead.

    Args:
        path: the file, in a bucket.
        holder: who holds it, for the messages of others.

    Raises:
        BlockingIOError: if another process holds the lock; its text is the other's `holder`.
    """
    _wait_for_death(path)
    content = {
        "holder": holder,
        "host": _host(),
        "process": os.getpid(),
        "token": secrets.token_hex(8),
    }
    _create(path, content)
    closed = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, content, closed), daemon=True, name="lock")
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
        try:
            if (found := _read(path)) is not None:
                _end_if_lost(path, found, content)
                storage.remove(path)
        except Exception as error:
            logging.warning(
                "%s cannot be removed, so the next run starts %g s later: %s", path, SILENCE, error
            )


def _wait_for_death(path: storage.Path) -> None:
    """Removes the file of a dead holder. Raises BlockingIOError if its holder is alive."""
    found = _read(path)
    if found is None:
        return
    if not _ended_here(found):
        logging.warning("%s names %s; looking for a sign of life", path, found["holder"])
        ends = time.monotonic() + SILENCE
        while time.monotonic() < ends:
            time.sleep(BEAT / 10)
            if (now := _read(path)) is None:
                return
            if now != found:
                raise BlockingIOError(now["holder"])
    storage.remove(path)


def _create(path: storage.Path, content: dict[str, Any]) -> None:
    """Writes the file. Raises BlockingIOError if another process was faster."""
    try:
        text = json.dumps(content).encode()
        storage.filesystem(path).pipe_file(str(path), text, mode="create")
    except FileExistsError:
        # An answer may be lost: then the client meets its own file at the next attempt.
        found = _read(path)
        if found is None or found["token"] != content["token"]:
            raise BlockingIOError((found or {}).get("holder", "another process")) from None


def _renew(path: storage.Path, content: dict[str, Any], closed: threading.Event) -> None:
    beat = 0
    while not closed.wait(BEAT):
        words = ("%s has not answered for %g s", path.parent, SILENCE)
        late = threading.Timer(SILENCE, logging.warning, words)
        late.start()
        # A bucket that does not answer now may do so at the next beat.
        with contextlib.suppress(Exception):
            _end_if_lost(path, _read(path), content)
            beat += 1
            path.write_text(json.dumps(content | {"beat": beat}))
        late.cancel()


def _end_if_lost(path: storage.Path, found: dict[str, Any] | None, content: dict[str, Any]) -> None:
    """Ends this process if another one has taken the lock over, and perhaps released it since."""
    found = found or {"holder": "another process", "token": ""}
    if found["token"] != content["token"]:
        peers.end_within(1.0)  # Even if nobody reads the message.
        print(
            f"\nerror: {found['holder']} has taken over {path}, because this process did not renew "
            "it in time. This process ends; the other run goes on",
            file=sys.__stderr__,
            flush=True,
        )
        peers.end()


def _read(path: storage.Path) -> dict[str, Any] | None:
    """Returns the content of the file, or None if there is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:  # The file of a run on disk that was killed and copied to a bucket.
        return {"holder": "an unknown process", "host": "", "process": 0, "token": ""}


def _host() -> str:
    """Returns a name of the machine and container: others may have the same processes' numbers."""
    names = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux only.
        names.append(os.readlink("/proc/self/ns/pid"))
        names.append(storage.read_bytes("/proc/sys/kernel/random/boot_id").decode().strip())
    return " ".join(names)


def _ended_here(found: dict[str, Any]) -> bool:
    """Returns whether the holder was a process of this machine that has ended."""
    if found["host"] != _host():
        return False
    try:
        os.kill(found["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
