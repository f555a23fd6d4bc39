"""Record of the module calls inside `apply`, in the order in which they return."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        path: names from the network down to the module; () is the network itself.
        number: number of earlier calls of the module.
        module: the bound module.
        args, kwargs: its arguments.
        output: its return value.
    """

    path: tuple[str, ...]
    number: int
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def key(self) -> tuple[tuple[str, ...], int]:
        """Identifies the call among those of one `apply`."""
        return self.path, self.number


@contextlib.contextmanager
def recorded_calls(change: Callable[[Call], Any] | None = None) -> Iterator[list[Call]]:
    """Records every `__call__` of a module; under `jit` the values are tracers.

    Args:
        change: call -> value that the module returns in place of its output. The record keeps the
            value that is returned.

    Yields:
        The list that the calls are appended to.
    """
    calls: list[Call] = []
    counts: Counter = Counter()
    active: list[tuple[str, ...]] = []

    def intercept(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        path = context.module.path
        if path in active:  # A subclass calls its parent's `__call__`, which is the same call.
            return call(*args, **kwargs)
        active.append(path)
        try:
            output = call(*args, **kwargs)
        finally:
            active.pop()
        made = Call(path, counts[path], context.module, args, kwargs, output)
        counts[path] += 1
        if change is not None:
            made = made._replace(output=change(made))
        calls.append(made)
        return made.output

    with nn.intercept_methods(intercept):
        yield calls
