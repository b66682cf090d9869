"""Real MQTT brokers on loopback for the tests: amqtt from PyPI everywhere, mosquitto as well where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Protocol

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
USER, PASSWORD = "okko", "correct horse"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


class Broker(Protocol):
    port: int

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Amqtt:
    """A broker in this process; with `password`, only `USER` may enter."""

    def __init__(self, *, password: bool = False) -> None:
        self.port = free_port()
        self._password = password

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(20)

    async def _serve(self, ready: threading.Event) -> None:
        from amqtt.broker import Broker as Implementation

        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        logging.getLogger("transitions").setLevel(logging.CRITICAL)
        plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
        with tempfile.TemporaryDirectory() as folder:
            if self._password:
                from pwdlib.hashers.argon2 import Argon2Hasher

                file = Path(folder) / "passwords"
                file.write_text(f"{USER}:{Argon2Hasher().hash(PASSWORD)}\n")
                plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(file)}}
            listener = {"type": "tcp", "bind": f"127.0.0.1:{self.port}"}
            broker = Implementation({"listeners": {"default": listener}, "plugins": plugins})
            await broker.start()
            self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._stopped.wait()
            await broker.shutdown()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(20)


class Mosquitto:
    """Debian's broker in a process of its own."""

    def __init__(self, *, password: bool = False) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(not password).lower()}", "user root"]
        if password:
            file = folder / "passwords"
            subprocess.run(["mosquitto_passwd", "-c", "-b", file, USER, PASSWORD], check=True, capture_output=True)
            lines.append(f"password_file {file}")
        (folder / "conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        assert MOSQUITTO
        command = [MOSQUITTO, "-c", str(Path(self._folder.name) / "conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + 20
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise AssertionError("mosquitto did not start")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


class Listener:
    """Hears every topic of a broker."""

    def __init__(self, port: int, *, password: bool = False) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, bytes]] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        if password:
            self._client.username_pw_set(USER, PASSWORD)
        ready = threading.Event()
        self._client.on_connect = lambda *_: self._client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = lambda _c, _u, message: self.messages.append((message.topic, message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(20)

    def of(self, topic: str) -> list[Any]:
        """What came on a topic: parsed JSON, or text where it is none."""
        return [_parsed(payload) for found, payload in list(self.messages) if found == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode()
