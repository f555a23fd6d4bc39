"""What comes after a failed save or restore is not told; everything else is."""

import logging
import sys
import types

from codeformer_jax.system.orbax_logging import silence_leftovers


def test_reads_and_writes_that_find_the_loop_closed_say_nothing(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    silence_leftovers()
    silence_leftovers()
    closed = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"))
    collected = types.SimpleNamespace(exc_value=RuntimeError("while reading"))
    collected.exc_value.__cause__ = GeneratorExit()
    others = [
        types.SimpleNamespace(exc_value=RuntimeError("something else")),
        types.SimpleNamespace(exc_value=None),
    ]
    for found in (closed, collected, *others):
        sys.unraisablehook(found)
    assert told == others


def test_errors_that_nobody_took_are_not_logged(caplog):
    silence_leftovers()
    logger = logging.getLogger("asyncio")
    logger.error("Task exception was never retrieved")
    logger.error("Task was destroyed but it is pending!")
    assert [record.message for record in caplog.records] == [
        "Task was destroyed but it is pending!"
    ]
