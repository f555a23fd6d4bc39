"""Paths that users give on the command line, in a config or in Python."""

import os
import re
from typing import Any

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Settings that are paths. `data.path` and `eval.path` are sources instead.
_SETTINGS = (
    *("init_from", "init_discriminator_from", "teacher"),
    *("loss.lpips", "data.codes", "eval.testset", "eval.lpips", "eval.st_lpips"),
)


def local(path: str | os.PathLike, setting: str = "path") -> str:
    """Expands `~`, which the shell leaves in --flag=~/folder.

    Args:
        path: a file or folder, which need not exist.
        setting: its name, for the message.

    Raises:
        ValueError: if `path` is a URL, such as a bucket's.
    """
    path = os.fspath(path)
    if _SCHEME.match(path):
        raise ValueError(
            f"{setting}={path} is a URL; expected a local path: mount the bucket, or copy the files"
        )
    return os.path.expanduser(path)


def local_config(config: Any) -> Any:
    """Expands `~` in all paths of a config; a changed config is a copy.

    Raises:
        ValueError: if a path is a URL.
    """
    changed = {}
    for setting in _SETTINGS:
        section, _, name = setting.rpartition(".")
        given = (config.get(section, {}) if section else config).get(name)
        if given and (path := local(given, setting)) != given:
            changed[setting] = path
    if not changed:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    return config


def check_workdir(workdir: str | os.PathLike) -> None:
    r"""Raises ValueError for a path from which Orbax cannot read checkpoints.

    Orbax looks for files with patterns, in which `*`, `?` and `[` have a meaning. TensorStore takes
    a backslash for a slash, and only UTF-8.
    """
    path = os.path.abspath(workdir)
    found = next((character for character in "*?[\\" if character in path), None)
    if found is None:
        try:
            path.encode()
        except UnicodeEncodeError:
            found = "a byte that is not UTF-8"
    if found is not None:
        shown = path.encode("utf-8", "backslashreplace").decode()
        raise ValueError(
            f"workdir={shown}: checkpoints cannot be read from a path with {found} in it; give "
            "another --workdir, or rename the folder"
        )
