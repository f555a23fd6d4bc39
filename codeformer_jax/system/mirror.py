"""Files of a run that grow, such as metrics: written on disk, uploaded whole to a bucket."""

import logging
import pathlib
import shutil
import tempfile
import threading

from codeformer_jax.system import storage
from codeformer_jax.system.atomic import atomic_path

# Seconds between two uploads.
EVERY = 30.0


class Mirror:
    """A local folder whose files are uploaded to a workdir in a bucket.

    They are uploaded every `EVERY` seconds, by `push` and by `close`. A workdir on disk needs no
    uploads: it is the local folder itself.

    Args:
        workdir: the run's folder.

    Attributes:
        workdir: the run's folder, for messages.
        folder: the local folder to write to.
    """

    def __init__(self, workdir: storage.Path):
        self.workdir = workdir
        self._thread = None
        if not storage.is_remote(workdir):
            self.folder = pathlib.Path(workdir)
            return
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="codeformer-jax-"))
        self._uploaded: dict[pathlib.Path, tuple[int, int]] = {}
        self._uploading, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        self._thread.start()

    def continued(self, name: str) -> pathlib.Path:
        """Returns the local path of a file, with the content that an earlier start wrote to it."""
        path = self.folder / name
        if self._thread is not None and (self.workdir / name).exists():
            path.write_bytes((self.workdir / name).read_bytes())
        return path

    def push(self) -> None:
        """Uploads the files that have changed since the last time."""
        if self._thread is None:
            return
        with self._uploading:
            for path in storage.files(self.folder):
                if path.suffix == ".tmp":  # A file that is being replaced.
                    continue
                status = path.stat()
                version = (status.st_size, status.st_mtime_ns)
                if self._uploaded.get(path) != version:
                    # The file may grow within its upload, which names the length first.
                    with atomic_path(self.workdir / path.relative_to(self.folder)) as copy:
                        shutil.copyfile(path, copy)
                    self._uploaded[path] = version

    def _run(self) -> None:
        while not self._closed.wait(EVERY):
            try:
                self.push()
            except Exception as error:  # The clients of buckets have errors of their own.
                logging.warning(
                    "%s: an upload failed and will be repeated: %s", self.workdir, error
                )

    def close(self) -> None:
        """Uploads what is left, then removes the local folder. On disk there is nothing to do."""
        if self._thread is None:
            return
        self._closed.set()
        self._thread.join()
        try:
            self.push()
        except Exception:
            logging.warning("%s: files of this run stay in %s", self.workdir, self.folder)
            raise
        shutil.rmtree(self.folder, ignore_errors=True)
