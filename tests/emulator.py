"""An object store on loopback, with faults on demand.

`gcp-storage-emulator` answers the requests. This server adds what Google Cloud Storage does beyond
it: several requests at a time, `ifGenerationMatch`, on which exclusive creation rests, moves, the
repetition of a finished upload, and an error for a part of an empty object. An upload whose
connection breaks leaves nothing.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import re
import threading
import time
import urllib.parse
from http import HTTPStatus
from http.server import ThreadingHTTPServer

import fsspec
from etils.epath import backend
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # It reports each 404.

BUCKET = "bkt"
MOVE = re.compile(rf"(/storage/v1/b/{BUCKET}/o/([^/?]+))/moveTo/o/([^/?]+)")
RANGE = re.compile(r"bytes \d+-(\d+)/(\d+)")
# Of gcsfs, of TensorStore, and a switch of gcsfs: without credentials it cannot ask for the kind of
# the bucket, and would log so at every operation.
VARIABLES = (
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",
)


@dataclasses.dataclass
class Fault:
    """A fault of the next requests.

    Attributes:
        kind: 'busy' answers 503, 'slow' answers after `seconds`, 'cut' closes the connection in the
            middle of the request, 'lost' does what is asked and closes it without an answer, and
            'torn' closes it one byte before the end of the answer.
        times: the number of requests that will still have it.
        after: the number of requests that will pass before.
        matching: a regular expression to search in 'METHOD /path?query', unquoted.
        seconds: the delay of 'slow'.
        met: the requests that had it.
    """

    kind: str
    times: int = 1
    after: int = 0
    matching: str = ""
    seconds: float = 0.0
    met: list[str] = dataclasses.field(default_factory=list)


class ObjectStore(ThreadingHTTPServer):
    """The server of one bucket.

    Attributes:
        url: its address.
        requests: what it was asked, as 'METHOD /path?query', unquoted.
        faults: faults that are due.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        self.storage = Storage(use_memory_fs=True)
        buckets.create_bucket(BUCKET, self.storage)
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, self.storage))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.finished: dict[str, bytes] = {}  # Answers to complete uploads, by upload_id.
        self.recording, self.storing = threading.Lock(), threading.Lock()

    def fail(self, kind, **options):
        """Gives the next requests a fault, and returns it."""
        self.faults.append(Fault(kind, **options))
        return self.faults[-1]

    def fault_of(self, request):
        """Records a request and returns its fault, or None."""
        with self.recording:
            self.requests.append(request)
            for fault in self.faults:
                if not fault.times or not re.search(fault.matching, request):
                    continue
                if fault.after:
                    fault.after -= 1
                else:
                    fault.times -= 1
                    fault.met.append(request)
                    return fault
        return None

    def names(self, url):
        """Returns the names of all objects under a gs:// URL, relative to it."""
        prefix = url.removeprefix(f"gs://{BUCKET}").strip("/") + "/"
        with self.storing:
            names = sorted(self.storage.objects.get(BUCKET, {}))
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def read(self, url):
        """Returns the bytes of an object."""
        with self.storing:
            return self.storage.get_file(BUCKET, url.removeprefix(f"gs://{BUCKET}/"))

    def put(self, url):
        """Makes an empty object of any name."""
        name = url.removeprefix(f"gs://{BUCKET}/")
        about = objects._make_object_resource(self.url, BUCKET, name, "text/plain", "0")
        with self.storing:
            self.storage.create_file(BUCKET, name, b"", objects._checksums(b"", about))

    def handle_error(self, request, client_address):
        """Says nothing of clients that were killed within a request."""


class _Handler(emulator.RequestHandler):
    def do_GET(self):
        self._receive("GET")

    def do_POST(self):
        self._receive("POST")

    def do_DELETE(self):
        self._receive("DELETE")

    def do_PUT(self):
        self._receive("PUT")

    def do_PATCH(self):
        self._receive("PATCH")

    def _receive(self, method):
        fault = self.server.fault_of(f"{method} {urllib.parse.unquote(self.path)}")
        kind = fault and fault.kind
        length = int(self.headers.get("Content-Length", 0))
        if kind == "cut":
            self.rfile.read(length // 2)
            return
        body = emulator._read_raw_data(self) or b""
        if len(body) < length:
            return  # The client was killed.
        if kind == "slow":
            time.sleep(fault.seconds)
        if kind == "busy":
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "busy")
            return
        if self.headers.get_content_type().startswith("multipart/"):
            # The emulator's parser takes a final "\r" of the content for a part of the line break.
            body = body.replace(b"\n--==0==--", b"\r\n--==0==--")
        del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
        self.headers["Content-Length"] = str(len(body))
        connection, self.rfile, self.wfile = self.wfile, io.BytesIO(body), io.BytesIO()
        with self.server.storing:
            self._answer(method, body)
        answer = self._with_generation(method, self.wfile.getvalue())
        sent = {"lost": 0, "torn": len(answer) - 1}.get(kind, len(answer))
        connection.write(answer[:sent])

    def _answer(self, method, body):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        upload, name = query.get("upload_id"), self._name(query, body)
        if upload in self.server.finished:
            self.wfile.write(self.server.finished[upload])
        elif upload and method == "DELETE":
            self.send_error(499, "the upload was cancelled")
        elif method != "GET" and query.get("ifGenerationMatch", self._generation(name)) != (
            self._generation(name)
        ):
            self.send_error(HTTPStatus.PRECONDITION_FAILED)
        elif (chunk := RANGE.fullmatch(self.headers.get("Content-Range", ""))) and (
            int(chunk[1]) >= int(chunk[2])
        ):
            self.send_error(HTTPStatus.BAD_REQUEST, "the chunk is longer than the file")
        elif "Range" in self.headers and self._size(name) == 0:
            self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        elif moved := MOVE.fullmatch(self.path.partition("?")[0]):
            self.path = f"{moved[1]}/copyTo/b/{BUCKET}/o/{moved[3]}"
            emulator.Router(self).handle(method)
            with contextlib.suppress(objects.NotFound):
                self.storage.delete_file(BUCKET, urllib.parse.unquote(moved[2]))
        else:
            emulator.Router(self).handle(method)
            if upload and upload not in self.storage.resumable:
                self.server.finished[upload] = self.wfile.getvalue()

    def _with_generation(self, method, answer):
        """Adds the header by which TensorStore knows what it has read."""
        name = urllib.parse.unquote(self.path.partition("?")[0].split("/")[-1])
        if method != "GET" or (generation := self._generation(name)) == "0":
            return answer
        return answer.replace(b"\r\n", f"\r\nx-goog-generation: {generation}\r\n".encode(), 1)

    def end_headers(self):
        # TensorStore writes a file again only if it still has the generation that it read.
        if self.command == "GET" and self._generation(name := self._name({}, b"")) != "0":
            self.send_header("x-goog-generation", self._generation(name))
        super().end_headers()

    def _name(self, query, body):
        """Returns the name of the object that a request is about."""
        if self.headers.get_content_type().startswith("multipart/related"):
            return json.loads(re.search(rb"\{.*\}", body)[0])["name"]
        return query.get("name") or urllib.parse.unquote(self.path.partition("?")[0].split("/")[-1])

    def _generation(self, name):
        """Returns the generation of an object, '0' if there is none."""
        return self.storage.objects.get(BUCKET, {}).get(name, {}).get("generation", "0")

    def _size(self, name):
        """Returns the length of an object, None if there is none."""
        about = self.storage.objects.get(BUCKET, {}).get(name)
        return about and int(about["size"])


@contextlib.contextmanager
def serve():
    """Serves an empty bucket to this process and its children; yields the `ObjectStore`."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    with ObjectStore() as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        os.environ.update(zip(VARIABLES, (store.url, store.url, "false"), strict=True))
        forget_connections()
        try:
            yield store
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            forget_connections()
            store.shutdown()
            thread.join()


def forget_connections():
    """Makes this process open and list its buckets anew."""
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    type(backend.fsspec_backend)._get_filesystem.cache_clear()
