"""The watch over a run's stages: no process waits for another without a limit and a name.

Every process publishes its stage through JAX's coordination service and reads the stages of its
peers. It ends itself, with a line that names the culprit and with its Python stacks, if a peer
fails or falls silent, or if its own stage takes too long. All of this happens in threads: a
collective operation that waits for a dead peer blocks the main thread forever.
"""

import contextlib
import dataclasses
import faulthandler
import itertools
import json
import math
import os
import re
import sys
import threading
import time
from typing import Any, NoReturn

import jax

SILENCE = 25.0  # Seconds without a sign of life after which a peer counts as dead.
_FOLDER = "codeformer_jax/stages"
# A tick is a tenth of the longest silence. Counting ticks instead of seconds forgives a machine
# that was suspended as a whole.
_TICKS = 10
_GRACE = 3  # Ticks in which a process may end by itself after it or a peer has failed.
_LINGER = 8  # The same for process 0, through which all others read.
_LONGEST = 1000  # Characters of a published error. Those of a compiler can be megabytes.
_NULL = os.open(os.devnull, os.O_WRONLY)
# A collective operation fails with one of these statuses, as a ValueError or a JaxRuntimeError.
_FROM_PEERS = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): "
)


@dataclasses.dataclass
class _Peer:
    """A peer as this process knows it.

    `silent` counts answers of process 0 without a new beat of the peer, so that nobody is blamed
    while process 0 is frozen. `failed` counts ticks.
    """

    beat: int = -1
    number: int = 0
    stage: str = "start"
    failure: str = ""
    silent: int = 0
    failed: int = 0


class Watch:
    """Threads that end this process instead of letting it wait forever.

    Args:
        silence: seconds without a sign of life after which a peer counts as dead.
        client: JAX's client of the coordination service; None for a single process.
        index: the number of this process.
        count: the number of processes.

    Attributes:
        limit: seconds that a stage may take.
        setting: what sets the limit.
    """

    def __init__(
        self,
        silence: float = SILENCE,
        client: Any = None,
        index: int = 0,
        count: int = 1,
    ):
        self.limit, self.setting = math.inf, "train.watchdog"
        self._client, self._index, self._count = client, index, count
        self._tick = silence / _TICKS
        # Ticks in which the peers read why this process has failed.
        self._linger = 0 if count == 1 else _GRACE if index else _LINGER
        self._ticks, self._at = 0, (0, "start", 0)  # Number, name and first tick of the stage.
        self._failure, self._failed, self._unanswered = "", 0, 0
        self._peers = {i: _Peer() for i in range(count) if i != index}
        self._closed, self._ending = threading.Event(), threading.Lock()
        loops = (self._judge, self._exchange)[: 1 if client is None else 2]
        self._threads = [threading.Thread(target=x, daemon=True, name="watch") for x in loops]
        for thread in self._threads:
            thread.start()

    def at(self, stage: str) -> None:
        """Names what this process does from now on. All processes name the same stages in order."""
        self._at = (self._at[0] + 1, stage, self._ticks)

    def fail(self, error: BaseException) -> None:
        """Publishes why this process ends. Its threads end it a few seconds later.

        An error of a collective operation may be the consequence of a peer's end. Then the peer is
        named instead, and this function does not return.
        """
        if _may_follow(error):
            time.sleep((_TICKS + _GRACE) * self._tick)
        with self._ending:  # Blocks for good once a peer has been named.
            self._failure = f"{type(error).__name__}: {error}"[:_LONGEST]

    def close(self) -> None:
        """Ends the threads."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=self._tick)

    def _exchange(self) -> None:
        """Publishes this process's stage and reads the peers'. It blocks while process 0 hangs."""
        for beat in itertools.count():
            text = json.dumps([beat, *self._at[:2], self._failure])
            try:
                self._client.key_value_set(f"{_FOLDER}/{self._index}", text, allow_overwrite=True)
                found = self._client.key_value_dir_get(_FOLDER)
            except jax.errors.JaxRuntimeError:
                pass
            else:
                self._take({int(key.rpartition("/")[2]): json.loads(text) for key, text in found})
            if self._closed.wait(self._tick):
                return

    def _take(self, answer: dict[int, list[Any]]) -> None:
        """Takes what the processes have published: beat, number, stage and failure of each."""
        self._unanswered = 0
        for i, peer in self._peers.items():
            if i in answer and answer[i][0] != peer.beat:
                peer.beat, peer.number, peer.stage, peer.failure = answer[i]
                peer.silent = 0
            else:
                peer.silent += 1

    def _judge(self) -> None:
        """Ends the process when there is a reason to."""
        while not self._closed.wait(self._tick):
            if self._client is not None and not jax.distributed.is_initialized():
                return  # JAX has closed the connection: the run is over.
            self._count_tick()
            if self._failure:
                if self._failed > self._linger:
                    end()
            elif reason := self._culprit():
                self._ending.acquire()
                end_within((_GRACE + 1) * self._tick + 1)  # Even if nobody reads the report.
                self._report(reason)
                if self._index == 0:  # The others end with process 0, so they go first.
                    time.sleep(_GRACE * self._tick)
                end()
            elif self._elapsed() > self.limit:
                reason = f"the limit of {self.limit:g} s has passed ({self.setting})"
                end_within((self._linger + 2) * self._tick + 1)
                self._report(reason + self._others())
                self._failure = reason

    def _elapsed(self) -> float:
        """Returns the seconds that this process has been in its stage."""
        return (self._ticks - self._at[2]) * self._tick

    def _count_tick(self) -> None:
        self._ticks += 1
        self._unanswered += 1
        self._failed += bool(self._failure)
        for peer in self._peers.values():
            peer.failed += bool(peer.failure)

    def _culprit(self) -> str:
        """Returns which peer has failed or is dead, or ''."""
        silence = f"for {_TICKS * self._tick:g} s"
        for i, peer in self._peers.items():
            if peer.failed > _GRACE:
                return f"process {i} failed in '{peer.stage}': {peer.failure}"
        if self._peers and self._unanswered > _TICKS:
            return f"process 0, through which all others talk, has not answered {silence}"
        for i, peer in self._peers.items():
            if peer.silent >= _TICKS:
                return f"process {i} has been silent {silence}; last seen in '{peer.stage}'"
        return ""

    def _others(self) -> str:
        """Returns where the peers are, as seen from the stage of this process."""
        lines = []
        for i, peer in self._peers.items():
            if peer.number < self._at[0]:
                lines.append(f"process {i} has not arrived: it is in '{peer.stage}'")
            elif peer.number > self._at[0]:
                lines.append(f"process {i} waits in '{peer.stage}'")
            else:
                lines.append(f"process {i} is in the same stage")
        return "".join(f"; {line}" for line in lines)

    def _report(self, reason: str) -> None:
        report(
            f"process {self._index} of {self._count} stops after {self._elapsed():.0f} s in "
            f"'{self._at[1]}': {reason}. The same command resumes from the last checkpoint, if "
            "there is one"
        )


def report(message: str) -> None:
    """Prints an error and the Python stacks of all threads."""
    with contextlib.suppress(OSError):  # Nobody reads it any more.
        print(f"\nerror: {message}", file=sys.__stderr__, flush=True)
    faulthandler.dump_traceback(file=sys.__stderr__)


def end() -> NoReturn:
    """Ends this process with 1, even if nobody reads its output."""
    end_within(1.0)
    with contextlib.suppress(OSError):
        print(end="", flush=True)
    os._exit(1)


def end_within(seconds: float) -> None:
    """Ends this process with 1 after that time, even if every Python thread is blocked."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_NULL)


def _may_follow(error: BaseException | None) -> bool:
    """Returns whether an error may be the consequence of a peer's end."""
    while error is not None and not _FROM_PEERS.match(str(error)):
        error = error.__cause__ or error.__context__
    return error is not None
