"""Verdicts and counts for an MQTT broker, with Home Assistant's discovery; by paho, on threads of its own.

`hear` puts a few numbers into a bounded queue and returns. Being offline is normal: paho tries again, less and less
often; verdicts wait as long as there is room, and what finds none is counted. Topics, below `okko/DEVICE`:
`availability` (online, offline; by last will too), `state` (JSON, retained), `verdict` (JSON, one a marble).
Discovery: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from okko_edge.events import Event
from okko_edge.metrics import temperature_celsius
from okko_edge.sorter import Outcome
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from paho.mqtt.client import Client

    from okko_edge.about import About
    from okko_edge.events import Counters
    from okko_edge.settings import MqttSettings
    from okko_edge.sorter import Decision
    from okko_edge.statistics import Statistics

CAPACITY = 1000
ONLINE, OFFLINE = "online", "offline"
_KEEPALIVE_S = 30
_LONGEST_PAUSE_S = 120
_LOOK_S = 0.2
_CLOSE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """One entity in Home Assistant.

    Attributes:
        key: its field in the state.
        name: what people read.
        unit: of the value.
        kind: Home Assistant's `device_class`.
        state_class: whether the value is a measurement or only ever rises.
        options: the values that an enumeration has.
        platform: sensor or binary_sensor.
    """

    key: str
    name: str
    unit: str | None = None
    kind: str | None = None
    state_class: str | None = None
    options: tuple[str, ...] | None = None
    platform: str = "sensor"


SENSORS = (
    Sensor(key="last_verdict", name="Last verdict", kind="enum", options=("OK", "KO", "UNCERTAIN")),
    Sensor(key="marbles", name="Marbles", state_class="total_increasing"),
    Sensor(key="ok", name="OK", state_class="total_increasing"),
    Sensor(key="ko", name="KO", state_class="total_increasing"),
    Sensor(key="uncertain", name="Uncertain", state_class="total_increasing"),
    Sensor(key="errors", name="Errors", state_class="total_increasing"),
    Sensor(key="marbles_per_min", name="Throughput", unit="/min", state_class="measurement"),
    Sensor(key="percent_uncertain", name="Share uncertain", unit="%", state_class="measurement"),
    Sensor(key="latency_p95_ms", name="Latency", unit="ms", kind="duration", state_class="measurement"),
    Sensor(key="temperature", name="Temperature", unit="°C", kind="temperature", state_class="measurement"),
    Sensor(key="sorting", name="Sorting", kind="running", platform="binary_sensor"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictMessage:
    """What is published of a marble; see `Decision` and `Classification`."""

    number: int
    verdict: str
    outcome: str
    label: str | None
    probability_of_ok: float | None
    novelty: float | None
    error: str | None
    path_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMessage:
    """The retained state: one field a sensor, None where there is nothing to say yet."""

    last_verdict: str | None
    marbles: int
    ok: int
    ko: int
    uncertain: int
    errors: int
    marbles_per_min: float
    percent_uncertain: float | None
    latency_p95_ms: float | None
    temperature: float | None
    sorting: str


def discovery(prefix: str, base: str, device: str, about: About) -> dict[str, bytes]:
    """Returns Home Assistant's configuration messages by topic, one for each sensor.

    Args:
        prefix: Home Assistant's discovery prefix.
        base: what okko's topics begin with.
        device: the device's name as a topic's part.
        about: the model and the versions.
    """
    shared = {
        "state_topic": f"{base}/state",
        "availability_topic": f"{base}/availability",
        "device": {
            "identifiers": [f"okko-{device}"],
            "name": about.device,
            "manufacturer": "okko",
            "model": f"{about.name} {about.version}",
            "sw_version": about.okko,
        },
        "origin": {"name": "okko", "sw_version": about.okko},
    }
    messages = {}
    for sensor in SENSORS:
        own = {
            "name": sensor.name,
            "unique_id": f"okko-{device}-{sensor.key}",
            "value_template": f"{{{{ value_json.{sensor.key} }}}}",
            "unit_of_measurement": sensor.unit,
            "device_class": sensor.kind,
            "state_class": sensor.state_class,
            "options": sensor.options,
        }
        content = {**{key: value for key, value in own.items() if value is not None}, **shared}
        messages[f"{prefix}/{sensor.platform}/okko-{device}/{sensor.key}/config"] = msgspec.json.encode(content)
    return messages


class Mqtt:
    """Publishes from `start` to `close`.

    Args:
        settings: the broker.
        about: the model, and what stands around it.
        statistics: counts and rolling statistics; hears of decisions by itself.
        counters: `MQTT_LOST` counts verdicts that were not published.
        paused: whether sorting is paused.
        warn: takes one sentence for the user.
        state_every_s: how often the state is published.
        capacity: verdicts that may wait for the broker.

    Attributes:
        base: what this device's topics begin with.

    Raises:
        OkkoError: paho is not installed, a topic has wildcards, or the password cannot be read.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        about: About,
        statistics: Statistics,
        counters: Counters,
        paused: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = lambda _: None,
        state_every_s: float = 10.0,
        capacity: int = CAPACITY,
    ) -> None:
        for key, topic in (("topic", settings.topic), ("discovery_prefix", settings.discovery_prefix)):
            if re.search(r"[+#\x00-\x1f]|^/|/$", topic):
                raise OkkoError(f"mqtt.{key} is {topic!r}; a topic has no + or # and no / at its ends")
        self._device = re.sub(r"[^A-Za-z0-9_-]+", "-", settings.device or socket.gethostname()) or "device"
        self.base = f"{settings.topic}/{self._device}"
        self._settings = settings
        self._about = about
        self._statistics = statistics
        self._counters = counters
        self._paused = paused
        self._warn = warn
        self._state_every_s = state_every_s
        self._queue: queue.Queue[VerdictMessage] = queue.Queue(capacity)
        self._last_verdict: str | None = None
        self._connected = threading.Event()
        self._greeted = False
        self._closing = threading.Event()
        self._warned = ""
        self._client = self._make_client()
        self._thread = threading.Thread(target=self._publish_until_closed, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begins to connect, in the background; a broker that is away is no error."""
        settings = self._settings
        self._client.connect_async(settings.host, settings.port, keepalive=_KEEPALIVE_S)
        self._client.loop_start()
        self._thread.start()

    def change_model(self, about: About) -> None:
        """Tells Home Assistant of another model as soon as there is a connection; returns at once."""
        self._about = about
        self._greeted = False

    def hear(self, decision: Decision) -> None:
        """Takes a decision; returns at once. For the sorting path's thread."""
        said = decision.classification
        message = VerdictMessage(
            number=decision.number,
            verdict=decision.verdict.value,
            outcome=decision.outcome.value,
            label=said.label if said else None,
            probability_of_ok=said.probability_of_ok if said else None,
            novelty=said.novelty if said else None,
            error=decision.error,
            path_ms=round(decision.path_ms, 3),
        )
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._counters.add(Event.MQTT_LOST)

    def close(self) -> None:
        """Says that the device goes offline, and disconnects; what still waits is counted as lost. Takes 3 seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
                self._counters.add(Event.MQTT_LOST)
        self._client.disconnect()
        self._client.loop_stop()

    def _make_client(self) -> Client:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise OkkoError(
                "MQTT needs the package paho-mqtt, which is not installed: pip install 'okko[mqtt]'"
            ) from error
        settings = self._settings
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"okko-{self._device}")
        client.reconnect_delay_set(1, _LONGEST_PAUSE_S)
        client.will_set(f"{self.base}/availability", OFFLINE, qos=1, retain=True)
        if settings.username or settings.password_file:
            client.username_pw_set(settings.username, _password(settings))
        if settings.tls:
            client.tls_set()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        return client

    def _on_connect(self, _client: object, _userdata: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._tell(f"the broker {self._settings.host} refuses: {reason}; look at mqtt.username and the password")
        else:
            self._greeted = False
            self._connected.set()

    def _on_disconnect(self, *_: object) -> None:
        self._connected.clear()

    def _publish_until_closed(self) -> None:
        next_state_s = 0.0
        while not self._closing.is_set():
            if not self._connected.wait(_LOOK_S):
                continue
            try:
                if not self._greeted:
                    self._greet()
                    next_state_s = 0.0
                if time.monotonic() >= next_state_s:
                    self._publish("state", msgspec.json.encode(self._state()), retain=True)
                    next_state_s = time.monotonic() + self._state_every_s
                with contextlib.suppress(queue.Empty):
                    message = self._queue.get(timeout=min(_LOOK_S, self._state_every_s))
                    if message.outcome != Outcome.EMPTY:
                        self._last_verdict = message.verdict
                    self._publish("verdict", msgspec.json.encode(message))
            except Exception as error:  # whatever it is, the next message may do better
                self._tell(f"publishing to {self._settings.host} failed: {type(error).__name__}: {error}")
                self._closing.wait(1)
        if self._connected.is_set():
            with contextlib.suppress(Exception):
                info = self._client.publish(f"{self.base}/availability", OFFLINE, qos=1, retain=True)
                info.wait_for_publish(_CLOSE_S / 2)

    def _greet(self) -> None:
        self._greeted = True
        if self._settings.discovery_prefix:
            messages = discovery(self._settings.discovery_prefix, self.base, self._device, self._about)
            for topic, content in messages.items():
                self._deliver(topic, content, retain=True)
        self._publish("availability", ONLINE.encode(), retain=True)

    def _publish(self, name: str, content: bytes, *, retain: bool = False) -> None:
        self._deliver(f"{self.base}/{name}", content, retain=retain)

    def _deliver(self, topic: str, content: bytes, *, retain: bool) -> None:
        """Publishes and waits until the broker has it; paho sends it again when the connection broke meanwhile."""
        info = self._client.publish(topic, content, qos=1, retain=retain)
        with contextlib.suppress(RuntimeError):  # the connection has just gone: paho holds the message
            while not self._closing.is_set() and not info.is_published():
                info.wait_for_publish(_LOOK_S)

    def _state(self) -> StateMessage:
        now = self._statistics.snapshot()
        return StateMessage(
            last_verdict=self._last_verdict,
            marbles=now.marbles,
            ok=now.verdicts["OK"],
            ko=now.verdicts["KO"],
            uncertain=now.verdicts["UNCERTAIN"],
            errors=now.errors,
            marbles_per_min=round(now.marbles_per_min, 2),
            percent_uncertain=None if now.share_uncertain is None else round(100 * now.share_uncertain, 2),
            latency_p95_ms=now.latency_ms.p95 if now.latency_ms else None,
            temperature=temperature_celsius(),
            sorting="OFF" if self._paused() else "ON",
        )

    def _tell(self, message: str) -> None:
        if message != self._warned:
            self._warned = message
            with contextlib.suppress(Exception):
                self._warn(message)


def _password(settings: MqttSettings) -> str | None:
    if not settings.password_file:
        return None
    if not settings.username:
        raise OkkoError("mqtt.password_file is set but mqtt.username is not: the broker asks for both")
    try:
        return Path(settings.password_file).expanduser().read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OkkoError(f"mqtt.password_file {settings.password_file} cannot be read: {error}") from error
