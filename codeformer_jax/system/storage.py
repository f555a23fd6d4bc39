"""Paths that users give: on disk, or in a bucket (`gs://`, `s3://`)."""

import contextlib
import glob
import importlib
import logging
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath

# A path on disk or in a bucket. Both have the methods of pathlib.
Path = pathlib.Path | epath.Path

_HALF = re.compile(r"(gs|gcs|s3):/(?!/)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# The package that serves each scheme; and the extra that brings it, which is also fsspec's name.
_BUCKETS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
# Settings that are paths. `data.path` and `eval.path` are sources instead.
_SETTINGS = (
    *("init_from", "init_discriminator_from", "teacher"),
    *("loss.lpips", "data.codes", "eval.testset", "eval.lpips", "eval.st_lpips"),
)


class BucketPath(type(epath.Path("/"))):
    """A path in a bucket.

    epath's own methods take a bucket that does not answer for one without the file, and read the
    length of a file first, which may change before its content is read.
    """

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def is_file(self) -> bool:
        return self._kind() == "file"

    def exists(self) -> bool:
        return self._kind() is not None

    def read_bytes(self) -> bytes:
        return read_bytes(self)

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def _kind(self) -> str | None:
        with contextlib.suppress(FileNotFoundError), _named("looked up", self):
            return filesystem(self).info(os.fspath(self))["type"]
        return None


def to_path(given: str | os.PathLike, setting: str = "path") -> Path:
    """Returns a path that a user gave, with `~` expanded, which the shell leaves in --flag=~/x.

    Args:
        given: a file or folder, which need not exist.
        setting: its name, for the message.

    Raises:
        ValueError: if it is another kind of URL, or the package for its bucket is missing.
    """
    text = os.fspath(given)
    scheme = _SCHEME.match(text)
    if _HALF.match(text):
        raise ValueError(f"{setting}={text}: a bucket has two slashes, as in gs://BUCKET/...")
    if scheme is None:
        path = pathlib.Path(os.path.expanduser(text))
        # `./~` loses its dot: absolute, it is not taken for the home folder next time.
        return path.absolute() if path.parts[:1] and path.parts[0][0] == "~" else path
    if scheme[1] not in _BUCKETS:
        raise ValueError(
            f"{setting}={text} is a URL of another kind; expected a local path, gs://BUCKET/... or "
            "s3://BUCKET/..."
        )
    _import_client(scheme[1])
    return BucketPath(text)


def _import_client(scheme: str) -> None:
    package, extra = _BUCKETS[scheme]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{scheme}:// needs the package {package}: pip install 'codeformer-jax[{extra}]'"
        ) from error
    # They log every file, and every error that they raise.
    logging.getLogger("fsspec").setLevel(logging.WARNING)
    logging.getLogger(package).setLevel(logging.CRITICAL)
    import fsspec  # noqa: PLC0415  Most of this room's time to import.

    # A cached listing would hide what other processes write; gcsfs waits for ever by default.
    settings = {"use_listings_cache": False} | ({"requests_timeout": 300} if scheme == "gs" else {})
    for name in {scheme, extra}:
        fsspec.config.conf.setdefault(name, {}).update(settings)


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path lies in a bucket."""
    return _SCHEME.match(os.fspath(path)) is not None


def absolute(given: str | os.PathLike) -> Path:
    """Returns a path as `to_path` does, a local one as an absolute one."""
    path = to_path(given)
    return path if is_remote(path) else path.absolute()


def resolved(path: Path) -> Path:
    """Returns a local path as an absolute one without links: equal places have equal paths."""
    return path if is_remote(path) else path.resolve()


def lexists(path: Path) -> bool:
    """Returns whether a path exists. A broken link does, too."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def filesystem(path: Path) -> Any:
    """Returns the fsspec file system of a path."""
    return _opened(path)[0]


def _opened(path: Path) -> tuple[Any, str]:
    """Returns the fsspec file system of a path and its name for the path."""
    import fsspec  # noqa: PLC0415  As above.

    return fsspec.core.url_to_fs(os.fspath(path))


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[pathlib.Path]:
    """Yields the local path of a file, for programs that read local files only.

    Args:
        path: the file. A file on disk is yielded itself; one in a bucket is copied to the temporary
            folder until the block ends.

    Raises:
        OSError: if the bucket does not answer or has no such file.
    """
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)
        with _named("read", path):
            filesystem(path).get_file(os.fspath(path), str(copy))
        yield copy


def upload(source: pathlib.Path, target: Path) -> None:
    """Copies a local file into a bucket, where it appears whole or not at all.

    The clients repeat failed requests for half a minute.

    Raises:
        OSError: if the upload fails.
    """
    with _named("written", target):
        filesystem(target).put_file(str(source), os.fspath(target))


@contextlib.contextmanager
def _named(action: str, path: Path) -> Iterator[None]:
    """Turns the errors of clients, which name no path, into an OSError that does."""
    try:
        yield
    except FileNotFoundError:
        if action == "written":
            raise FileNotFoundError(f"{path} cannot be written: no such bucket") from None
        raise FileNotFoundError(f"{path} does not exist") from None
    except Exception as error:
        reason = f"{type(error).__name__} {getattr(error, 'code', None) or error}".strip()
        kind = TimeoutError if isinstance(error, TimeoutError) else OSError
        raise kind(f"{path} cannot be {action}: {reason}") from error


def is_away(error: Exception, path: Path) -> bool:
    """Returns whether an error means that the bucket of `path` does not answer."""
    unanswered = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    return unanswered and is_remote(path)


def read_bytes(path: str | os.PathLike, stop: int | None = None, start: int = 0) -> bytes:
    """Returns the content of a file, in any process.

    Args:
        path: the file.
        stop: the byte before which to stop; default: the end.
        start: the byte to start from.

    Raises:
        OSError: if it cannot be read; of a bucket, the message names the file.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(None if stop is None else stop - start)
    path = to_path(path)  # A worker process has not set up the client yet.
    with _named("read", path):
        try:
            return filesystem(path).cat_file(os.fspath(path), start=start or None, end=stop)
        except Exception as error:
            if "not satisfiable" in str(error).lower():  # The file is empty.
                return b""
            raise


def files(folder: Path) -> list[Path]:
    """Returns all files under a folder, sorted; none if it does not exist."""
    if is_remote(folder):
        return sorted(folder / name for name in sizes(folder))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size(path: Path) -> int:
    """Returns the length of a file in bytes."""
    # Not by epath for a local file, which fails where its owner has no name.
    return path.stat().length if is_remote(path) else os.path.getsize(path)


def listing(folder: Path) -> dict[str, dict[str, Any]]:
    """Lists a folder in a bucket.

    Returns:
        {name below the folder, with slashes: what the bucket tells of the file}, sorted.
    """
    with _named("listed", folder):
        system, root = _opened(folder)
        found = system.find(root, detail=True)
    start = len(root.rstrip("/")) + 1
    names = {name[start:]: about for name, about in sorted(found.items())}
    # A console makes a folder by an empty object whose name ends in a slash.
    return {name: about for name, about in names.items() if name and not name.endswith("/")}


def sizes(folder: Path) -> dict[str, int]:
    """Returns {name below a folder in a bucket, with slashes: bytes}, sorted."""
    return {name: about["size"] for name, about in listing(folder).items()}


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that it holds; nothing happens if there is none."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError), _named("removed", path):
            # The client reads a path as a pattern.
            filesystem(path).rm(glob.escape(os.fspath(path)), recursive=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Renames a file or folder within a disk or a bucket, where its files move one by one.

    Args:
        source: the file or folder.
        target: its new name, which must be free. In a bucket its parent need not exist.

    Raises:
        OSError: if it cannot be moved.
    """
    if not is_remote(source):
        os.rename(source, target)
        return
    with _named("moved", source):
        filesystem(source).mv(os.fspath(source), os.fspath(target), recursive=True)


def local_config(config: Any) -> Any:
    """Expands `~` in all paths of a config; a changed config is a copy.

    Raises:
        ValueError: as `to_path`.
    """
    changed = {}
    for setting in _SETTINGS:
        section, _, name = setting.rpartition(".")
        given = (config.get(section, {}) if section else config).get(name)
        if not given:
            continue
        to_path(given, setting)
        if (path := os.path.expanduser(given)) != given:
            changed[setting] = path
    if not changed:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    return config


def check_workdir(workdir: Path) -> None:
    r"""Raises ValueError for a path at which Orbax cannot keep checkpoints.

    It supports no buckets but those of `gs://`. It finds files by patterns, in which `*`, `?` and
    `[` have a meaning. TensorStore reads a backslash as a slash and accepts only UTF-8.
    """
    path = os.fspath(absolute(workdir))
    if path.startswith("s3://"):
        raise ValueError(
            f"workdir={path}: Orbax writes checkpoints to disks and to gs:// only; give such a "
            "--workdir. Other files may be in s3:// buckets"
        )
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
