"""Real S3 interfaces on loopback for tests: moto's, and SeaweedFS as users run it."""

from __future__ import annotations

import contextlib

from okko_cloud.local.seaweed import SeaweedFS
from okko_cloud.place import Place

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def moto_server():
    """Yields the address of moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def seaweed(folder, place=None, webhook="http://127.0.0.1:9/", token="none"):
    """Yields SeaweedFS, with the place's bucket in it."""
    server = SeaweedFS(folder)
    server.start(place or Place("okko"), webhook, token)
    try:
        yield server
    finally:
        server.stop()


def credentials(server: SeaweedFS) -> dict[str, str]:
    """The pair of a server, as environment."""
    access, secret = server._pair()
    return KEYS | {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
