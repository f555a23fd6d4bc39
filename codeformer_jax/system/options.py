"""Options declared once: fields of a frozen dataclass that a command line can be made from."""

import dataclasses
from typing import Any


def option(default: Any, help: str, *flags: str, **settings: Any) -> Any:
    """Returns a dataclass field that describes itself to a command line.

    Args:
        default: the field's default.
        help: text for `--help`. A default that is neither None, False nor empty is appended to it.
        flags: names on the command line; default is `--field-name`.
        settings: `section` (heading in `--help`), `exclusive` (name of a group of options of which
            one may be given), and arguments of `argparse.ArgumentParser.add_argument`.
    """
    metadata = {"help": help, "flags": flags, **settings}
    return dataclasses.field(default=default, metadata=metadata)
