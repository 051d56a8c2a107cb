"""The local web page's server: pictures come in as raw bytes, crops and similarities go out, nothing is kept.

GET / is the page, GET /page.js its script. POST /compare takes pictures one behind the other as the body
(application/octet-stream) and their sizes in bytes in the header Picture-Sizes, such as `81920,77001`.

What guards it: it is bound to loopback unless told otherwise; a request must name the host as an address or by a name
that was allowed, so that no foreign name can be pointed at it (DNS rebinding); pages of other origins can neither send
to it, since the type of the body and its header would need a permission (CORS) that is never given, nor show it in a
frame. Sizes, pixels, numbers of pictures, of connections and of uploads at a time, and all waiting are limited.
"""
import base64
import hashlib
import io
import ipaddress
import json
import re
import socket
import socketserver
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import DataError, UserError
from recognition.web_page import make_page

_SCRIPT = Path(__file__).with_name("web_page.js")
_CONNECTIONS, _UPLOADS = 64, 4  # at a time
_WAIT, _WHOLE, _PATIENCE = 20, 60, 2  # seconds: of silence, for a whole request, for what comes behind a refused one
_BLOCK = 1 << 16


class Limits(NamedTuple):
    """What a request may hold. bytes: of all its pictures; pixels: of each; faces: of each that are taken."""

    pictures: int = 12
    bytes: int = 64 << 20
    pixels: int = 40_000_000
    faces: int = 5


class Refused(Exception):
    """A request that is answered by a status other than 200."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class FaceServer(ThreadingHTTPServer):
    """Serves the page at `url`: `serve_forever` in the caller's thread, `start` in another one, until `stop`.

    recogniser: a Recogniser; gallery: a Gallery to search, its path, or None; host, port: to bind to (port 0: any that
    is free); names: host names that requests may use beside `localhost`, `host` and addresses; limits: Limits.
    Raises UserError where the address cannot be bound to, and as `Recogniser.gallery` does.
    """

    daemon_threads = True

    def __init__(self, recogniser, gallery=None, host="127.0.0.1", port=8000, names=(), limits=None):
        self.recogniser, self.limits = recogniser, limits or Limits()
        self.gallery = None if gallery is None else recogniser.gallery(gallery)
        self._search(np.empty((0, recogniser.emb_size)))  # an empty gallery shows here
        self.names = {name.lower() for name in ("localhost", host, *names)}
        # A network of MXNet keeps 12 MB for each thread that calls it, so that one thread does it for all requests.
        self._network = ThreadPoolExecutor(1)
        self._connections, self.uploads = (threading.BoundedSemaphore(most) for most in (_CONNECTIONS, _UPLOADS))
        page = make_page(recogniser, self.gallery, self.limits)
        style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
        self.policy = _policy(style)
        self.files = {"/": ("text/html; charset=utf-8", page.encode("utf-8", "replace")),
                      "/page.js": ("text/javascript; charset=utf-8", _SCRIPT.read_bytes())}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}; choose "
                            "another with --host and --port") from error

    def start(self):
        """Serve in another thread. Returns the server."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def stop(self):
        """End what `start` began."""
        self.shutdown()
        self.server_close()

    def server_close(self):
        super().server_close()
        self._network.shutdown()  # waits: no thread may be in MXNet when the process ends

    def _run(self, function, *args):
        """The result of a function that calls a network."""
        try:
            waiting = self._network.submit(function, *args)
        except RuntimeError as error:  # it was shut down
            raise Refused(503, "the program is ending") from error
        return waiting.result()

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask a name server who we are
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def url(self):
        """The address of the page."""
        host = self.server_name
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def is_local(self):
        """Whether this machine alone can reach it."""
        return ipaddress.ip_address(self.server_address[0].partition("%")[0]).is_loopback

    def knows(self, host):
        """Whether a request's Host may be of this server: an address or one of its names, with any port (it may have
        come through a tunnel)."""
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self.names

    def process_request(self, request, client_address):
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request, client_address):
        """Say nothing of clients that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def answer(self, pictures):
        """Compare and search pictures, a list of bytes. Returns what the page shows, a dict that JSON can hold."""
        faces, owners, problems = [], [], []
        for number, data in enumerate(pictures):
            try:
                found = self._faces(data, "this picture")
                faces += found
                owners += [number] * len(found)
            except DataError as error:
                problems.append(dict(picture=number, message=str(error)))
        if not faces:
            return dict(faces=[], problems=problems, similarities=[], same=None, matches=None)
        embeddings = self._run(self.recogniser.embed_crops, [face.crop for face in faces])
        similarities, threshold = embeddings @ embeddings.T, self.recogniser.threshold
        return dict(faces=[dict(picture=owner, crop=_data_uri(face.crop)) for owner, face in zip(owners, faces)],
                    problems=problems, similarities=similarities.round(6).tolist(), matches=self._search(embeddings),
                    same=None if threshold is None else threshold.decide(similarities).tolist())

    def _search(self, embeddings):
        return None if self.gallery is None else [
            [match._asdict() for match in near]
            for near in self.gallery.search(embeddings, self.recogniser.threshold)]

    def _faces(self, data, where):
        finder = self.recogniser.finder
        return self._run(finder.find, finder.decode(data, where, self.limits.pixels), where, self.limits.faces)


def _data_uri(crop):
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(crop[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode('ascii')}"


def _policy(style):
    """The Content-Security-Policy: its own script and style, and pictures that are in the page, nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return f"default-src 'none'; script-src 'self'; style-src 'sha256-{digest}'; img-src data:; connect-src 'self'; " \
           "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class _Impatient(io.RawIOBase):
    """What a client sends. Raises socket.timeout when it is silent for _WAIT seconds, or not done after _WHOLE."""

    def __init__(self, connection):
        self._connection, self._end = connection, time.monotonic() + _WHOLE

    def readable(self):
        return True

    def readinto(self, buffer):
        self._connection.settimeout(max(1e-3, min(_WAIT, self._end - time.monotonic())))
        count = self._connection.recv_into(buffer)
        if time.monotonic() > self._end:
            raise socket.timeout("too slow")
        return count


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "faces", ""

    def setup(self):
        super().setup()
        self.rfile = io.BufferedReader(_Impatient(self.connection))

    def do_GET(self):
        with self._answering():
            self._check_origin()
            if self.path not in self.server.files:
                raise Refused(404, "no such page")
            self._send(200, *self.server.files[self.path])

    do_HEAD = do_GET

    def do_POST(self):
        with self._answering():
            self._check_origin()
            if self.path != "/compare":
                raise Refused(404, "no such page")
            if not self.server.uploads.acquire(timeout=_WAIT):
                raise Refused(503, "too many uploads at a time; try again")
            try:
                answer = self.server.answer(self._read_pictures())
            finally:
                self.server.uploads.release()
            self._send(200, "application/json", json.dumps(answer).encode())

    @contextmanager
    def _answering(self):
        try:
            yield
        except Refused as error:
            self._send_error(error.status, str(error))
        except UserError as error:
            self._send_error(500, str(error))
        except OSError:  # the client is gone
            raise
        except Exception:
            self._send_error(500, "the server failed; its terminal tells more")
            raise

    def _check_origin(self):
        host = self.headers.get("Host", "")
        if not self.server.knows(host):
            raise Refused(403, f"host {host[:100]!r} is none of this server's names; start it with --allow-host to "
                          "add one")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            raise Refused(403, "sent by a page of another origin")

    def _read_pictures(self):
        """The pictures of the body, a list of bytes."""
        limits, sizes = self.server.limits, self.headers.get("Picture-Sizes", "")
        if self.headers.get("Content-Type") != "application/octet-stream":
            raise Refused(415, "expected Content-Type: application/octet-stream")
        if not re.fullmatch(r"[1-9]\d{0,11}(,[1-9]\d{0,11})*", sizes, re.ASCII):
            raise Refused(400, "expected a header Picture-Sizes with the size of each picture in bytes, such as "
                          "81920,77001")
        sizes = [int(size) for size in sizes.split(",")]
        if len(sizes) > limits.pictures:
            raise Refused(413, f"{len(sizes)} pictures; at most {limits.pictures} are taken at a time")
        if sum(sizes) > limits.bytes:
            raise Refused(413, f"{sum(sizes)} bytes; at most {limits.bytes} are taken at a time")
        if self.headers.get("Content-Length") != str(sum(sizes)):
            raise Refused(400 if "Content-Length" in self.headers else 411,
                          f"expected Content-Length: {sum(sizes)}, the sum of Picture-Sizes")
        try:
            return [self._read(size) for size in sizes]
        except socket.timeout as error:
            raise Refused(408, "the upload took too long") from error

    def _read(self, size):
        data = self.rfile.read(size)
        if len(data) < size:
            raise Refused(400, "the upload ended early")
        return data

    def _send(self, status, kind, body):
        self.connection.settimeout(_WAIT)
        self.send_response(status)
        for name, value in {
                "Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": self.server.policy,
                "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
                "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, status, message):
        self._send(status, "application/json", json.dumps(dict(error=message)).encode())
        # A client that still sends would lose the answer if we hung up at once.
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_PATIENCE)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self.connection.recv(_BLOCK):
            pass

    def log_message(self, format, *args):
        """Nothing is told of requests."""
