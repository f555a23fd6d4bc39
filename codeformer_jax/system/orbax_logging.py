"""Silence about what Orbax leaves behind when it fails.

It reads or writes all arrays of a state at once and raises the first error. The others, hundreds at
times, come later and from other threads: asyncio logs each task whose error nobody took once it is
collected, and a read or write that ends after its event loop was closed, or that is collected
before it ends, is an error that Python can only print. None says more than what was raised.
"""

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any


def silence_leftovers() -> None:
    """For good, since they may come long after the error was told; a second call does nothing."""
    logging.getLogger("asyncio").addFilter(_is_news)
    if getattr(sys.unraisablehook, "func", None) is not _print_news:
        sys.unraisablehook = functools.partial(_print_news, sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _print_news(before: Callable[[Any], None], unraisable: Any) -> None:
    error = unraisable.exc_value
    collected = isinstance(getattr(error, "__cause__", None), GeneratorExit)
    if not collected and str(error) != "Event loop is closed":
        before(unraisable)
