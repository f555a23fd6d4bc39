"""Modules of a user's own, which add tasks, networks, metrics and more to the registries."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import ml_collections


def import_plugins(config: Mapping[str, Any] | ml_collections.ConfigDict) -> None:
    """Imports the modules that `config.plugins` names, each once per process.

    The current folder is searched after the installed packages. It stays in `sys.path`, so that
    worker processes find the modules as well.

    Args:
        config: of a run; older ones have no plugins.

    Raises:
        ValueError: a module cannot be imported.
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
