"""How train.py, eval.py and codeformer-jax begin and end."""

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Name of threads that nobody waits for any more: a compiler, for one, cannot be told to stop.
LEFT_BEHIND = "left behind"

_SETTING = "glibc.malloc.hugetlb"
_AGAIN = "codeformer_jax_again"
_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts this process again, once, so that the C library asks for memory in huge pages.

    Only for scripts, as the first thing that they do. On a CPU XLA asks for a step's temporary
    memory anew in every step, gigabytes of it, and the kernel hands it out page by page, hundreds
    of thousands of them where a page is 4 KiB. The C library reads the setting only when a process
    begins. Process number, arguments and streams stay; child processes inherit it.

    Nothing happens where the setting is made already (GLIBC_TUNABLES, also to 0), where the kernel
    gives huge pages to all or to none, with another C library than glibc 2.35 or later, and where
    the program is not a file that could be run again.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    helps = _SETTING not in tunables and _on_request() and _glibc() >= (2, 35)
    possible = _AGAIN not in sys._xoptions and sys.executable and _is_script()
    if not (helps and possible):
        return
    asked = {"GLIBC_TUNABLES": ":".join(filter(None, [tunables, f"{_SETTING}=1"]))}
    command = [sys.executable, "-X", _AGAIN, *sys.orig_argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # Where that is forbidden, all works without, only slower.
        os.execve(command[0], command, {**os.environ, **asked})


def run(
    main: Callable[[list[str]], None], define_flags: Callable[[list[str]], None] | None = None
) -> None:
    """Runs a script's `main` on what absl's flags leave of the command line.

    Args:
        main: called with the arguments that are no flags, after the script's name.
        define_flags: called with the command line before it is parsed, to define flags that depend
            on it; OSError and ValueError end in one line.
    """
    use_huge_pages()
    from absl import app  # noqa: PLC0415  codeformer-jax does not need it.

    with ending():
        app.run(main, flags_parser=functools.partial(_parse_flags, define_flags))


def peek_flags(argv: list[str], *names: str) -> Any:
    """Returns the text flags `names` of a command line whose other flags are not defined yet.

    They are attributes of the result, None where not given or where the command line is malformed.
    """
    from absl import flags  # noqa: PLC0415  codeformer-jax does not need it.

    values = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, None, "", flag_values=values)
    with contextlib.suppress(flags.Error):  # Reported when all flags are parsed.
        values(argv, known_only=True)
    values.mark_as_parsed()
    return values


def left_behind() -> bool:
    """Whether a thread is at work that nobody waits for."""
    return any(thread.name == LEFT_BEHIND for thread in threading.enumerate())


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Meanwhile SIGTERM and Ctrl-C end the process, with 0 and 130: there is nothing to save yet.

    They do so at once, which a handler of Python's does not, since it waits for what the main
    thread does in C++ (looking for the other processes of a run), nor does KeyboardInterrupt, which
    imports of C++ lose. Outside the main thread signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)

    def end(number, *_):
        try:
            print("interrupted before the run began", file=sys.stderr, flush=True)
        finally:  # Also where nobody reads the output any more.
            os._exit(130 if number == signal.SIGINT else 0)

    def wait():
        while seen := os.read(source, 1):  # Nothing at the end.
            if seen[0] in numbers:
                end(seen[0])
        os.close(source)

    source, sink = os.pipe()
    os.set_blocking(sink, False)
    before = signal.set_wakeup_fd(sink)
    threading.Thread(target=wait, daemon=True, name="ended_by_signals").start()
    previous = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(sink)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Around a whole command: the process ends with it even where a thread is still at work.

    Python and XLA clean up on the way out, and under a compiler at work that is a crash.
    """
    try:
        yield
    except BaseException as end:
        if not left_behind():
            raise
        code = end.code if isinstance(end, SystemExit) else 1
        try:
            if not isinstance(end, SystemExit):
                traceback.print_exc()
            elif isinstance(code, str):
                print(code, file=sys.stderr)
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # Also where nobody reads the output any more.
            os._exit(code if isinstance(code, int) else int(code is not None))


def _parse_flags(define_flags: Callable[[list[str]], None] | None, argv: list[str]) -> list[str]:
    """Parses absl's flags; a value that the config does not have ends in one line."""
    from absl import app  # noqa: PLC0415  codeformer-jax does not need it.

    try:
        if define_flags is not None:
            define_flags(argv)
        return app.parse_flags_with_usage(argv)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except AttributeError as error:  # A config is locked: it has no other values.
        reason = str(error).replace("\\n", " ")
        raise SystemExit(f"error: the config has no such value: {reason}") from error


def _is_script() -> bool:
    """Whether the program is a file; one that was read from standard input says '<stdin>'."""
    return os.path.exists(getattr(sys.modules["__main__"], "__file__", None) or "")


def _on_request() -> bool:
    """Whether the kernel gives huge pages to who asks for them."""
    try:
        return "[madvise]" in _PAGES.read_text()
    except OSError:
        return False


def _glibc() -> tuple[int, ...]:
    """The C library's version; () where it is another one."""
    try:
        name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
        return tuple(int(part) for part in version.split(".")) if name == "glibc" else ()
    except (AttributeError, OSError, ValueError):
        return ()
