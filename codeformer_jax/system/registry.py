"""Named entries of one kind: tasks, networks, metrics, corruptions, quantizers, sources."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name, in the order in which they were registered.

    Args:
        setting: what a user sets to choose an entry, such as 'config.task'; for error messages.
    """

    def __init__(self, setting: str):
        self._setting = setting
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Returns a decorator that adds a class, function or object under `name`.

        Raises:
            ValueError: if another entry has the name.
        """

        def add(entry: Entry) -> Entry:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"{self._setting}={name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise ValueError(
                f"{self._setting}={name!r} is unknown; expected one of {', '.join(self)}. A module "
                "of your own that registers it belongs into config.plugins"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
