import functools
import http.server
import os
import socket
import threading

import pytest

from okko_models.registry.client import Client
from okko_models.registry.errors import BusyError, MissingError, OfflineError, RegistryError, UntrustedError
from okko_models.registry.files import locked
from okko_models.registry.metadata import bundle_key
from okko_models.registry.store import FolderStore
from okko_models.registry.transport import HttpTransport, open_transport
from tests.models.registry.simulator import Simulator, tampered


def test_a_bundle_comes_whole_and_a_second_time_nothing_is_downloaded(simulator, tmp_path):
    bundle = simulator.release("1")
    client, server = simulator.device()
    first = client.fetch(tmp_path / "models")
    assert first.bundle.path == tmp_path / "models" / bundle.digest
    assert first.downloaded_bytes == sum(entry.size for entry in bundle.manifest.files.values()) + first.wanted.size
    assert first.facts.labels == 2
    server.asked.clear()
    assert client.fetch(tmp_path / "models").downloaded_bytes == 0
    assert not any(key.startswith("bundles/") for key, _ in server.asked)


def test_a_download_goes_on_where_the_network_went_away(simulator, tmp_path):
    bundle = simulator.release("1")
    client, server = simulator.device()
    client.look()
    server.pieces = 50
    tries, downloaded = 0, 0
    while True:
        server.cut_after = 36
        tries += 1
        try:
            downloaded += client.fetch(tmp_path / "models").downloaded_bytes
            break
        except OfflineError:
            assert tries < 50
    assert tries > 1
    assert any(start > 0 for _, start in server.asked)
    assert client.fetch(tmp_path / "models").bundle.digest == bundle.digest


def test_a_part_that_was_damaged_on_the_disk_is_fetched_again(simulator, tmp_path):
    bundle = simulator.release("1")
    client, _ = simulator.device()
    partial = tmp_path / "models" / f".partial-{bundle.digest}"
    partial.mkdir(parents=True)
    size = bundle.manifest.files["model.onnx"].size
    for content in (b"?" * 50, b"?" * size, b"?" * (size + 1), b""):
        (partial / "model.onnx").write_bytes(content)
        assert client.fetch(tmp_path / "models").bundle.digest == bundle.digest
        (tmp_path / "models" / bundle.digest).rename(partial)


def test_a_file_that_ends_too_early_is_asked_for_again_later(simulator, tmp_path):
    bundle = simulator.release("1")
    client, server = simulator.device()
    key = bundle_key(bundle.digest, "model.onnx")
    server.replies[key] = server.files[key][:-1]
    with pytest.raises(OfflineError, match="ended after"):
        client.fetch(tmp_path / "models")
    server.replies.clear()
    assert client.fetch(tmp_path / "models").bundle.digest == bundle.digest


def test_a_bundle_that_was_damaged_on_the_disk_is_replaced(simulator, tmp_path):
    simulator.release("1")
    client, _ = simulator.device()
    path = client.fetch(tmp_path / "models").bundle.path
    (path / "model.onnx").write_bytes(b"worn out")
    assert client.fetch(tmp_path / "models").downloaded_bytes > 0


def test_the_unfinished_download_of_an_older_bundle_makes_room(simulator, tmp_path):
    old = tmp_path / "models" / (".partial-" + "0" * 64)
    old.mkdir(parents=True)
    simulator.release("1")
    simulator.device()[0].fetch(tmp_path / "models")
    assert not old.exists()


def test_a_full_disk_is_told_and_the_next_try_succeeds(simulator, tmp_path, monkeypatch):
    simulator.release("1")
    client, _ = simulator.device()
    client.look()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(RegistryError, match="No space left"):
            client.fetch(tmp_path / "models")
    assert client.fetch(tmp_path / "models").downloaded_bytes > 0


def test_one_at_a_time(simulator, tmp_path):
    simulator.release("1")
    client, _ = simulator.device()
    with locked(tmp_path / "sim" / "device1" / ".lock", wait=False), pytest.raises(BusyError):
        client.fetch(tmp_path / "models")
    client.look()


def test_a_device_that_was_never_enrolled_says_so(simulator, tmp_path):
    _, server = simulator.device()
    with pytest.raises(RegistryError, match=r"root\.json"):
        Client(tmp_path / "fresh", server).look()
    assert Client(tmp_path / "fresh", server).newest_signed() == 0


def test_a_device_is_not_enrolled_with_anything_but_a_root_and_not_twice(simulator, tmp_path, redness_bundle):
    client, server = simulator.device()
    for wrong in (
        b"",
        b"{}",
        server.files["metadata/1.targets.json"],
        tampered(simulator.root, version=7),
    ):
        with pytest.raises(UntrustedError):
            Client(tmp_path / "fresh", server).enroll(wrong)
    other = Simulator(tmp_path / "other", redness_bundle)
    client.enroll(simulator.root)
    with pytest.raises(RegistryError, match="another registry"):
        client.enroll(other.root)


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "roots/2.root.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}"])
def test_a_device_whose_disk_lost_what_it_trusted_gets_it_again(simulator, tmp_path, name, content):
    from okko_models.registry.root import rotate

    simulator.release("1")
    rotate(simulator.publisher, "snapshot")
    client, _ = simulator.device()
    client.look()
    (tmp_path / "sim" / "device1" / name).write_bytes(content)
    assert client.look().version == "1"


def test_the_pace_is_asked_for_each_piece(simulator, tmp_path):
    simulator.release("1")
    pieces = []
    client, _ = simulator.device(pace=pieces.append)
    fetched = client.fetch(tmp_path / "models")
    assert sum(pieces) == fetched.downloaded_bytes - fetched.wanted.size


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def registry(tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle, FolderStore(tmp_path / "registry"))
    simulator.release("1")
    return simulator


def enrolled(simulator, tmp_path, transport):
    client = Client(tmp_path / "device", transport, clock=simulator.clock)
    client.enroll(simulator.root)
    return client


def test_any_web_server_will_do(registry, tmp_path, serve):
    url = serve(functools.partial(Quiet, directory=str(tmp_path / "registry")))
    client = enrolled(registry, tmp_path, open_transport(url))
    assert client.fetch(tmp_path / "models").bundle.manifest.version == "1"


def test_a_usb_stick_will_do(registry, tmp_path):
    client = enrolled(registry, tmp_path, open_transport(str(tmp_path / "registry")))
    assert client.fetch(tmp_path / "models").bundle.manifest.version == "1"
    with pytest.raises(OfflineError, match="USB"):
        open_transport(str(tmp_path / "not-plugged-in"))


class Ranges(Quiet):
    honest = True

    def do_GET(self):
        data = b"0123456789"
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start if self.honest else 0}-9/10")
        self.send_header("Content-Length", str(10 - start))
        self.end_headers()
        self.wfile.write(data[start:])


def test_a_part_of_a_file_over_http_is_the_right_part(serve, tmp_path):
    (tmp_path / "x.json").write_bytes(b"0123456789")
    plain = serve(functools.partial(Quiet, directory=str(tmp_path)))
    for url in (plain, serve(Ranges)):
        assert b"".join(HttpTransport(url).read("x.json", 4, 6)) == b"456789"
        assert b"".join(HttpTransport(url).read("x.json", 0, 10)) == b"0123456789"
    liar = serve(type("Liar", (Ranges,), {"honest": False}))
    with pytest.raises(OfflineError, match="another part"):
        list(HttpTransport(liar).read("x.json", 4, 6))


@pytest.mark.parametrize(
    ("status", "error"), [(404, MissingError), (403, MissingError), (500, OfflineError), (429, OfflineError),
                          (301, RegistryError), (418, RegistryError)]
)  # fmt: skip
def test_what_a_web_server_answers_instead_is_told_apart(serve, status, error):
    class Answer(Quiet):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()

    with pytest.raises(error) as found:
        list(HttpTransport(serve(Answer)).read("x.json", 0, 10))
    assert type(found.value) is error


@pytest.mark.parametrize("dribble", ["headers", "body"])
def test_slow_retrieval_a_connection_that_dribbles_is_cut(dribble):
    """The server sends a byte every 20 ms, for ever; each one in time, so only the timer on the whole can end it."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip():
        connection, _ = listener.accept()
        connection.recv(1000)
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if dribble == "body" else b"X: "))
            try:
                while not ended.wait(0.02):
                    connection.sendall(b"x")
            except OSError:
                pass

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", allowed_s=lambda _: 0.3, silence_s=5)
    with pytest.raises(OfflineError, match="too slow"):
        list(transport.read("x.json", 0, 10))
    ended.set()
    thread.join()
    listener.close()


def test_a_silent_server_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", silence_s=0.1)
        with pytest.raises(OfflineError, match="timed out"):
            list(transport.read("x.json", 0, 10))


@pytest.mark.parametrize("url", ["http://", "https://host:notaport/", "http://host/?q", "file:///etc"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises((RegistryError, OfflineError)):
        open_transport(url)
