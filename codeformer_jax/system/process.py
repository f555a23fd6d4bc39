"""How train.py, eval.py and codeformer-jax begin and end."""

import contextlib
import functools
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Name of threads that nobody waits for any more: a compiler, for one, cannot be told to stop.
LEFT_BEHIND = "left behind"

# Implies --xla_gpu_exclude_nondeterministic_ops, and switches off the choice of kernels by timing.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

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


def use_deterministic_programs() -> None:
    """Asks XLA for GPU programs that repeat bit for bit; to be called before JAX starts.

    Such programs have no kernels that add in the order in which threads arrive, and none that was
    picked by timing. Other platforms repeat as they are. A setting in XLA_FLAGS stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()


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
        try:
            app.run(main, flags_parser=functools.partial(_parse_flags, define_flags))
        except (AssertionError, RuntimeError) as error:
            if reason := no_devices(error):
                raise SystemExit(f"error: {reason}") from error
            raise


def no_devices(error: BaseException) -> str | None:
    """Returns why JAX has no devices where `error` says or means that, and else None.

    JAX looks for devices when they are first needed, anywhere in a command. It raises RuntimeError
    or, where JAX_PLATFORMS asks for CUDA and there is no GPU, an AssertionError without text.
    """
    detail = ""
    if isinstance(error, RuntimeError):
        if not str(error).startswith("Unable to initialize backend"):
            return None
        detail = f": {error}".partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    elif not isinstance(error, AssertionError) or _jax_starts():
        return None
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return (
            f"JAX_PLATFORMS={platforms}: JAX cannot compute on such a device here{detail}. Unset "
            "JAX_PLATFORMS to take what there is, or install JAX for that device, such as "
            "pip install 'jax[cuda12]' or 'jax[tpu]'"
        )
    return (
        f"JAX cannot start on the devices of this machine{detail}. Free them, or compute without "
        "them: JAX_PLATFORMS=cpu"
    )


def _jax_starts() -> bool:
    """Returns whether JAX has devices, or has not been imported."""
    if jax := sys.modules.get("jax"):
        try:
            jax.devices()
        except AssertionError:
            return False
    return True


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


def ending_signals() -> list[int]:
    """Returns the signals that end a run: Ctrl-C, SIGTERM, a closed terminal, SLURM's warning.

    The last two, SIGHUP and SIGUSR1, are left out where they are ignored, as SIGHUP by nohup.
    """
    others = (signal.SIGHUP, signal.SIGUSR1)
    heard = [number for number in others if signal.getsignal(number) != signal.SIG_IGN]
    return [signal.SIGINT, signal.SIGTERM, *heard]


def drop_closed_output() -> None:
    """Sends standard output and error to /dev/null where their terminal or pipe is closed.

    After SIGHUP a progress bar would otherwise fail before the state is saved.
    """
    for number in (1, 2):
        try:
            poll = select.poll()
            poll.register(number, 0)
            if poll.poll(0):  # Without a mask it tells of nothing but errors and hang-ups.
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)
        except OSError:  # Not open at all.
            continue


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ends the process at a signal, with 0, or 130 for Ctrl-C: there is nothing to save yet.

    The signals are those of `ending_signals`. They end it at once, which a handler of Python's does
    not, since it waits for what the main thread does in C++ (looking for the other processes of a
    run), nor does KeyboardInterrupt, which imports of C++ lose. Outside the main thread signals are
    left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = ending_signals()

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
    # A config is locked: it has no other values or sections, and only sections have values.
    except (AttributeError, KeyError, TypeError) as error:
        if any(frame.name == "get_config" for frame in traceback.extract_tb(error.__traceback__)):
            raise  # The config's own fault.
        reason = str(error).replace("\\n", " ")
        if isinstance(error, TypeError):
            reason = "a name stands behind a setting that is no section; check the dots"
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
