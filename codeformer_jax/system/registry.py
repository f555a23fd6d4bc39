"""Named entries of one kind, and the user's own modules that add to them.

Tasks, networks, metrics, corruptions, quantizers and sources each have one `Registry`.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ml_collections

Entry = TypeVar("Entry")


class Registry(dict[str, Entry]):
    """Entries by name, in the order in which they were registered.

    Args:
        setting: what a user sets to choose an entry, such as 'config.task'; for error messages.
    """

    def __init__(self, setting: str):
        super().__init__()
        self._setting = setting

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Returns a decorator that adds a class, function or object under `name`.

        Raises:
            ValueError: if another entry has the name.
        """

        def add(entry: Entry) -> Entry:
            if self.setdefault(name, entry) is not entry:
                raise ValueError(f"{self._setting}={name!r} is registered already")
            return entry

        return add

    def __missing__(self, name: str) -> Entry:
        raise ValueError(
            f"{self._setting}={name!r} is unknown; expected one of {', '.join(self)}. A module of "
            "your own that registers it belongs into config.plugins"
        )


def import_plugins(config: Mapping[str, Any] | ml_collections.ConfigDict) -> None:
    """Imports the modules that `config.plugins` names, each once per process.

    The current folder is searched after the installed packages. It stays in `sys.path`, so that
    worker processes find the modules as well.

    Args:
        config: the run's config. Older ones have no `plugins`.

    Raises:
        ValueError: if a module cannot be imported.
    """
    names = config.get("plugins") or ()
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"plugins={tuple(names)}: {name!r} cannot be imported: {error}. Name modules in "
                f"the current folder ({os.getcwd()}) or installed ones"
            ) from error
