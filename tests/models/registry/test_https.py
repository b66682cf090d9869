"""A registry on a web server with TLS, whose certificate was signed by an authority made for the test."""

import datetime
import functools
import http.server
import ipaddress
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from okko_models.registry.client import Client
from okko_models.registry.errors import OfflineError
from okko_models.registry.store import FolderStore
from okko_models.registry.transport import HttpTransport
from tests.models.registry.simulator import Simulator

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign(self.key.public_key(), "authority", None, NOW - DAY, NOW + DAY)
        (folder / "authority.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def sign(self, public_key, name, address, start, end):
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        else:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "encipher_only", "decipher_only"), False)  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        return builder.sign(self.key, SHA256())

    def context(self, address="127.0.0.1", start=NOW - DAY, end=NOW + DAY):
        """What a server needs to be taken for `address`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key.public_key(), "server", address, start, end)
        path = self.folder / f"{certificate.serial_number}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder, context):
        super().__init__(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        self.context = context

    def get_request(self):
        connection, address = super().get_request()
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def authority(tmp_path, monkeypatch):
    """An authority that this machine trusts."""
    trusted = Authority(tmp_path / "trusted")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.folder / "authority.pem"))
    return trusted


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(context):
        server = Server(tmp_path / "registry", context)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"https://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_bundle_comes_over_tls_from_a_server_whose_certificate_is_right(authority, serve, tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle, FolderStore(tmp_path / "registry"))
    bundle = simulator.release("1")
    client = Client(tmp_path / "device", HttpTransport(serve(authority.context())), clock=simulator.clock)
    client.enroll(simulator.root)
    assert client.fetch(tmp_path / "models").bundle.digest == bundle.digest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"address": "127.0.0.2"}, "IP address mismatch"),
        ({"start": NOW - 2 * DAY, "end": NOW - DAY}, "certificate has expired"),
        ({"start": NOW + DAY, "end": NOW + 2 * DAY}, "certificate is not yet valid"),
    ],
)
def test_a_certificate_for_another_server_or_another_time_is_refused_in_words(authority, serve, changes, reason):
    url = serve(authority.context(**changes))
    with pytest.raises(OfflineError, match=rf"not accepted \({reason}.*\); look at .* clock \(it says 2.* UTC\)"):
        list(HttpTransport(url).read("metadata/timestamp.json", 0, 100))


def test_a_certificate_signed_by_somebody_else_is_refused_in_words(authority, serve, tmp_path):
    url = serve(Authority(tmp_path / "stranger").context())
    with pytest.raises(OfflineError, match=r"not accepted .*issuer certificate.* http:// will do"):
        list(HttpTransport(url).read("metadata/timestamp.json", 0, 100))


def test_a_server_without_tls_is_no_reason_to_go_on_without(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        with pytest.raises(OfflineError, match="SSL"):
            list(HttpTransport(f"https://127.0.0.1:{server.server_port}").read("metadata/timestamp.json", 0, 100))
    finally:
        server.shutdown()
        server.server_close()
