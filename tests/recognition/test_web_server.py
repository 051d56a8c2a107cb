"""The server of the local page, spoken to over HTTP: what it answers, what it refuses, what it leaves behind."""
import base64
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import cv2
import numpy as np
import pytest
import use_files as files

from common.errors import UserError
from recognition import web_server
from recognition.gallery import Gallery
from recognition.recogniser import Recogniser
from recognition.web_server import FaceServer, Limits

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(pictures=3, bytes=50_000, pixels=20_000, faces=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return files.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def faces(model):
    return Recogniser(model, threshold=0.5, image_shape=files.SIZE, batch_size=1)


@pytest.fixture(scope="module")
def gallery(faces):
    gallery = Gallery(faces.model_hash, faces.flip)
    for name, row in zip(("Ada", "<b>Grace</b>"), faces.embed(files.draw_images(2))):
        gallery.add(name, "", row)
    return gallery


@pytest.fixture(scope="module")
def server(faces, gallery):
    with FaceServer(faces, gallery, port=0, limits=LIMITS).start() as server:
        yield server
        server.shutdown()


def ask(server, method="GET", path="/", body=None, host="127.0.0.1", **headers):
    """(status, headers, body) of an answer; headers' names with _ for -, None: left out."""
    connection = HTTPConnection(*server.server_address[:2], timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in dict(Host=host, **headers).items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def compare(server, pictures, **headers):
    """(status, answer) for pictures, a list of bytes."""
    body = b"".join(pictures)
    headers = {"Content_Type": "application/octet-stream", "Content_Length": str(len(body)),
               "Picture_Sizes": ",".join(str(len(picture)) for picture in pictures), **headers}
    status, _, answer = ask(server, "POST", "/compare", body, **headers)
    return status, json.loads(answer)


def head(length):
    """The beginning of an upload of one picture."""
    return (f"POST /compare HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            f"Picture-Sizes: {length}\r\nContent-Length: {length}\r\n\r\n").encode()


def wait_for(condition):
    """Wait until a function gives something true."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def everything(connection):
    """All that a server sends before it hangs up, politely or not."""
    answer = b""
    try:
        while True:
            part = connection.recv(1 << 16)
            if not part:
                return answer
            answer += part
    except ConnectionResetError:
        return answer


def dribble(connection):
    """Send a byte now and then, until the other side has had enough."""
    try:
        for _ in range(1000):
            connection.sendall(b"a")
            time.sleep(0.02)
    except OSError:
        pass


def encoded(count=2):
    return [files.encode(image) for image in files.draw_images(count)]


class TestPage:
    def test_page_and_script(self, server):
        for path, kind in (("/", "text/html; charset=utf-8"), ("/page.js", "text/javascript; charset=utf-8")):
            status, headers, body = ask(server, path=path)
            assert status == 200 and headers["Content-Type"] == kind and len(body) == int(headers["Content-Length"])
            assert ask(server, "HEAD", path)[2] == b""
        page = ask(server)[2].decode()
        assert "From 0.5000 on" in page and "the 2 people in the gallery" in page and "32x32 pixels" in page
        assert re.findall(r"<script[^>]*>", page) == ['<script src="/page.js">']
        assert not re.search(r"https?:|//|style=| on\w+=", re.sub(r"<style>.*?</style>", "", page, flags=re.S))

    def test_headers(self, server):
        headers = ask(server)[1]
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'" and policy["script-src"] == "'self'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"].strip() == "faces" and not any(name.startswith("Access-Control") for name in headers)

    @pytest.mark.parametrize("method, path, status", [
        ("GET", "/compare", 404), ("GET", "/../README.md", 404), ("GET", "/page.js?x", 404), ("POST", "/", 404),
        ("OPTIONS", "/compare", 501), ("PUT", "/compare", 501), ("DELETE", "/", 501)])
    def test_other_requests(self, server, method, path, status):
        assert ask(server, method, path)[0] == status


class TestComparison:
    def test_similarities_decisions_and_names(self, server):
        images, rows = files.draw_images(3), files.reference(files.draw_images(3))
        status, answer = compare(server, encoded(3))
        assert status == 200 and answer["problems"] == [] and [face["picture"] for face in answer["faces"]] == [0, 1, 2]
        np.testing.assert_allclose(answer["similarities"], rows @ rows.T, atol=1e-5)
        np.testing.assert_array_equal(answer["same"], rows @ rows.T >= 0.5)
        for number, near in enumerate(answer["matches"]):
            expected = sorted(zip(rows[number] @ rows[:2].T, ("Ada", "<b>Grace</b>")), reverse=True)
            assert [match["name"] for match in near] == [name for _, name in expected]
            assert [match["accepted"] for match in near] == [bool(value >= 0.5) for value, _ in expected]
        for face, image in zip(answer["faces"], images):
            crop = base64.b64decode(face["crop"].partition("data:image/jpeg;base64,")[2])
            crop = cv2.imdecode(np.frombuffer(crop, np.uint8), 1)[:, :, ::-1]
            assert np.abs(crop.astype(int) - image).mean() < 12

    def test_without_threshold_and_gallery(self, model):
        plain = Recogniser(model, image_shape=files.SIZE)
        with FaceServer(plain, port=0).start() as server:
            status, answer = compare(server, encoded())
            assert status == 200 and answer["same"] is answer["matches"] is None
            assert "No threshold is known" in ask(server)[2].decode()
            server.shutdown()

    def test_faces_of_photographs(self, model, tmp_path):
        finder = Recogniser(model, files.write_detector(tmp_path / "mtcnn"), image_shape=files.SIZE)
        photograph = files.photograph_of(np.maximum(files.draw_images(1)[0], 150), 6, 80)
        with FaceServer(finder, port=0, limits=Limits(faces=2)).start() as server:
            pictures = [files.encode(np.hstack([photograph] * 3)), files.encode(np.zeros((200, 200, 3), np.uint8)),
                        files.encode(photograph)]
            answer = compare(server, pictures)[1]
            owners = [face["picture"] for face in answer["faces"]]
            assert owners[:2] == [0, 0] and set(owners[2:]) == {2} and len(owners) <= 4
            assert answer["problems"] == [dict(picture=1, message="this picture: no face found of at least 40 pixels")]
            assert "aligned faces" not in ask(server)[2].decode()
            server.shutdown()

    def test_pictures_that_cannot_be_used(self, server):
        large = files.encode(np.zeros((101, 200, 3), np.uint8))
        status, answer = compare(server, [b"GIF89a", large, encoded()[0]])
        assert status == 200 and [face["picture"] for face in answer["faces"]] == [2]
        assert [problem["picture"] for problem in answer["problems"]] == [0, 1]
        assert "as no JPEG" in answer["problems"][0]["message"]
        assert answer["problems"][1]["message"] == "this picture: 200x101 pixels; at most 0.02 million are taken"
        status, answer = compare(server, [b"none"])
        assert status == 200 and answer["faces"] == answer["similarities"] == [] and len(answer["problems"]) == 1

    def test_many_at_a_time(self, server):
        expected, found = compare(server, encoded(3))[1], []
        threads = [threading.Thread(target=lambda: found.append(compare(server, encoded(3)))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [(200, expected)] * 12

    def test_one_thread_calls_the_network(self, model, tmp_path):
        """MXNet keeps memory for every thread that does."""
        faces = Recogniser(model, files.write_detector(tmp_path / "mtcnn"), image_shape=files.SIZE)
        threads, real = [], (faces.finder._detector, faces._embedder)
        faces.finder._detector = lambda image: threads.append(threading.get_ident()) or real[0](image)
        faces._embedder = lambda images: threads.append(threading.get_ident()) or real[1](images)
        faces._embedder.emb_size = 6
        photograph = files.encode(files.photograph_of(np.maximum(files.draw_images(1)[0], 150), 6, 80))
        with FaceServer(faces, port=0).start() as server:
            for _ in range(3):
                assert compare(server, [photograph])[0] == 200
            server.shutdown()
        assert len(threads) == 9 and len(set(threads)) == 1


class TestRefusals:
    @pytest.mark.parametrize("host, status", [
        ("127.0.0.1:8000", 200), ("localhost", 200), ("LocalHost:1", 200), ("[::1]:8000", 200), ("192.168.1.7", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example:8000", 403), ("", 403),
        (None, 403), ("2130706433", 403)])
    def test_hosts(self, server, host, status):
        """A name that somebody else gave this address (DNS rebinding) is refused."""
        assert ask(server, host=host)[0] == status
        assert compare(server, encoded(), **(dict(host=host)))[0] == status

    def test_hosts_that_are_allowed(self, faces):
        with FaceServer(faces, host="localhost", port=0, names=("faces.example",)).start() as server:
            assert ask(server, host="Faces.example:80")[0] == 200 and ask(server, host="other.example")[0] == 403
            server.shutdown()

    @pytest.mark.parametrize("origin, status", [("http://127.0.0.1", 200), ("http://evil.example", 403), ("null", 403),
                                                ("http://127.0.0.1:1", 403), ("", 403)])
    def test_origins(self, server, origin, status):
        assert compare(server, encoded(), Origin=origin)[0] == status

    @pytest.mark.parametrize("headers, status, message", [
        (dict(Content_Type="text/plain"), 415, "octet-stream"), (dict(Content_Type=None), 415, "octet-stream"),
        (dict(Picture_Sizes=None), 400, "Picture-Sizes"), (dict(Picture_Sizes="1,,2"), 400, "Picture-Sizes"),
        (dict(Picture_Sizes="-1"), 400, "Picture-Sizes"), (dict(Picture_Sizes="0"), 400, "Picture-Sizes"),
        (dict(Picture_Sizes="1,1,1,1", Content_Length="4"), 413, "4 pictures; at most 3"),
        (dict(Picture_Sizes="50001", Content_Length="50001"), 413, "50001 bytes; at most 50000"),
        (dict(Picture_Sizes="999999999999", Content_Length="999999999999"), 413, "at most 50000"),
        (dict(Picture_Sizes="5"), 400, "Content-Length: 5"), (dict(Content_Length=None), 411, "Content-Length"),
        (dict(Content_Length="all"), 400, "Content-Length")], ids=str)
    def test_uploads(self, server, headers, status, message):
        found, answer = compare(server, [b"abcd"], **headers)
        assert found == status and message in answer["error"]

    def test_an_answer_before_the_upload_is_through(self, server):
        """A client that sends far too much still gets told why."""
        status, answer = compare(server, [bytes(40 << 20)])
        assert status == 413 and "at most 50000" in answer["error"]

    def test_an_upload_that_ends_early(self, server):
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(head(9) + b"abc")
            connection.shutdown(socket.SHUT_WR)
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.0 400") and b"the upload ended early" in answer

    @pytest.mark.parametrize("begun", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n", head(9) + b"abc"])
    def test_clients_that_say_nothing_more(self, server, monkeypatch, begun):
        monkeypatch.setattr(web_server, "_WAIT", 0.2)
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(begun)
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.0 408") if begun.startswith(b"POST") else answer == b""

    @pytest.mark.parametrize("begun, end", [(head(9999), b"HTTP/1.0 408"), (b"GET / HTTP/1.1\r\nHost: ", b"")])
    def test_clients_that_dribble(self, server, monkeypatch, begun, end):
        monkeypatch.setattr(web_server, "_WHOLE", 0.3)
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(begun)
            threading.Thread(target=dribble, args=(connection,), daemon=True).start()
            answer = everything(connection)
        assert answer.startswith(end) if end else answer == b""

    def test_too_many_connections(self, faces):
        with FaceServer(faces, port=0) as server:
            server._connections = slots = threading.BoundedSemaphore(2)
            server.start()
            idle = [socket.create_connection(server.server_address[:2], timeout=20) for _ in range(2)]
            wait_for(lambda: slots._value == 0)
            with socket.create_connection(server.server_address[:2], timeout=20) as refused:
                assert refused.recv(1) == b""
            for connection in idle:
                connection.close()
            wait_for(lambda: slots._value == 2)
            assert ask(server)[0] == 200
            server.shutdown()

    def test_too_many_uploads(self, server, monkeypatch):
        monkeypatch.setattr(server, "uploads", threading.BoundedSemaphore(1))
        monkeypatch.setattr(web_server, "_WAIT", 0.1)
        with server.uploads:
            status, answer = compare(server, encoded())
        assert status == 503 and "too many uploads" in answer["error"]
        assert compare(server, encoded())[0] == 200

    def test_failures_are_told(self, server, faces, monkeypatch, capfd):
        for error, message in ((UserError("model: embeddings are not finite"), "model: embeddings are not finite"),
                               (ValueError("secret"), "the server failed; its terminal tells more")):
            def fail(crops, error=error):
                raise error

            monkeypatch.setattr(faces, "embed_crops", fail)
            assert compare(server, encoded()) == (500, dict(error=message))
        told = []
        wait_for(lambda: told.append(capfd.readouterr().err) or "ValueError: secret" in "".join(told))
        monkeypatch.undo()
        assert compare(server, encoded())[0] == 200


def _confine():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests may run in the background of a shell, which ignores it


class TestServing:
    def test_bound_to_loopback_alone(self, server, faces):
        assert server.server_address[0] == "127.0.0.1" and server.is_local()
        with FaceServer(faces, host="0.0.0.0", port=0) as everywhere:
            assert not everywhere.is_local()

    def test_galleries_that_cannot_be_searched(self, faces):
        for gallery, message in ((Gallery(faces.model_hash), "empty"), (Gallery("other"), "another model")):
            with pytest.raises(UserError, match=message):
                FaceServer(faces, gallery, port=0)

    def test_a_port_that_is_taken(self, server, faces):
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {server.server_port}: Address already"):
            FaceServer(faces, port=server.server_port)

    def test_stopped_and_started_again(self, faces):
        first = FaceServer(faces, port=0).start()
        assert ask(first)[0] == 200
        first.stop()
        first.server_close()
        with FaceServer(faces, port=first.server_port).start() as second:
            assert compare(second, encoded())[0] == 200
            second.shutdown()

    def test_the_command_writes_nothing_to_disk(self, model, tmp_path):
        """It runs where the system lets no file grow, from an empty folder that is its temporary one too."""
        process = subprocess.Popen(
            [sys.executable, "-B", str(ROOT / "recognition" / "serve.py"), "--model", model, "--image-size", "32,32",
             "--port", "0", "--threshold", "0.5", "--faces", "1", "--detector",
             str(files.write_detector(tmp_path / "mtcnn"))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, cwd=str(tmp_path),
            env=dict(TMPDIR=str(tmp_path), HOME=str(tmp_path), PATH=""),
            preexec_fn=_confine)
        try:
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert lines[0] == "threshold 0.5000\n", process.stderr.read()
            port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", lines[1])[1])
            before = sorted(tmp_path.rglob("*"))
            photograph = files.photograph_of(np.maximum(files.draw_images(1)[0], 150), 6, 80)
            pictures = [files.encode(photograph, suffix) for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff")]
            process.server_address = ("127.0.0.1", port)
            status, answer = compare(process, pictures)
            assert status == 200 and [face["picture"] for face in answer["faces"]] == [0, 1, 2, 3]
            assert [problem["picture"] for problem in answer["problems"]] == [4]
            assert sorted(tmp_path.rglob("*")) == before
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130 and process.stderr.read().splitlines()[-1] == "stopped"
        finally:
            process.kill()
            process.communicate()
