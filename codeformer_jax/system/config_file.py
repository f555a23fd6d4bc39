"""Config files, run outside of train.py and eval.py."""

import runpy
import sys
from pathlib import Path
from typing import Any


def load_config(name: str) -> Any:
    """Returns the config of a file.

    Args:
        name: 'configs/X.py', with ':ARGUMENT' for a config that takes one.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(f"no config '{path}'; run this from the folder that holds configs/")
    sys.path.insert(0, "")  # Configs import one another from the current folder.
    try:
        get_config = runpy.run_path(path)["get_config"]
        return get_config(argument) if argument else get_config()
    finally:
        sys.path.remove("")
