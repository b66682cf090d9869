"""What arrives at a real broker, and that sorting never notices whether there is one."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from okko_edge.events import Counters, Event
from okko_edge.mqtt import SENSORS, Mqtt, discovery
from okko_edge.settings import MqttSettings
from okko_edge.statistics import Statistics
from okko_models.errors import OkkoError
from tests.edge.brokers import MOSQUITTO, PASSWORD, USER, Amqtt, Broker, Listener, Mosquitto, free_port
from tests.edge.dashboard_fakes import ABOUT, decision, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KINDS = [Amqtt, *([Mosquitto] if MOSQUITTO else [])]


def until(true: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if value := true():
            return value
        time.sleep(0.02)
    raise AssertionError("it never came true")


class Bench:
    """A broker, someone who listens to it, and the agent's side of it."""

    def __init__(self, broker: Broker, stack: ExitStack) -> None:
        self.broker = broker
        self.counters = Counters()
        self.statistics = Statistics()
        self.warnings: list[str] = []
        self._stack = stack

    def agent(self, **changes: Any) -> Mqtt:
        arguments = {key: changes.pop(key) for key in ("state_every_s", "capacity") if key in changes}
        settings = MqttSettings(**{"host": "127.0.0.1", "port": self.broker.port, "device": "sorter 1", **changes})
        mqtt = Mqtt(
            settings,
            about=ABOUT,
            statistics=self.statistics,
            counters=self.counters,
            warn=self.warnings.append,
            **{"state_every_s": 0.2, **arguments},
        )
        self._stack.callback(mqtt.close)
        return mqtt

    def listener(self, **options: bool) -> Listener:
        listener = Listener(self.broker.port, **options)
        self._stack.callback(listener.close)
        return listener


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with ExitStack() as stack:
        broker = request.param()
        broker.start()
        stack.callback(broker.stop)
        yield Bench(broker, stack)


def test_every_verdict_arrives_once_and_in_order(bench: Bench) -> None:
    listener, mqtt = bench.listener(), bench.agent()
    mqtt.start()
    for number in range(1, 51):
        mqtt.hear(decision(number, ok=0.5 if number % 7 == 0 else 0.99))
    mqtt.hear(unseen(51))
    verdicts = until(lambda: len(found := listener.of("okko/sorter-1/verdict")) >= 51 and found)
    assert [verdict["number"] for verdict in verdicts] == list(range(1, 52))
    assert verdicts[6] == {
        "number": 7,
        "verdict": "UNCERTAIN",
        "outcome": "marble",
        "label": "OK",
        "probability_of_ok": 0.5,
        "novelty": 0.0,
        "error": None,
        "path_ms": 12.0,
    }
    assert verdicts[50]["label"] is None
    assert "no frame" in verdicts[50]["error"]
    assert bench.counters[Event.MQTT_LOST] == 0


def test_the_state_follows_the_counts(bench: Bench) -> None:
    listener, mqtt = bench.listener(), bench.agent()
    mqtt.start()
    for number, ok in enumerate((0.9, 0.9, 0.1, 0.5), start=1):
        bench.statistics.hear(decision(number, ok))
        mqtt.hear(decision(number, ok))
    state = until(lambda: [s for s in listener.of("okko/sorter-1/state") if s["last_verdict"] == "UNCERTAIN"])[0]
    assert (state["marbles"], state["ok"], state["ko"], state["uncertain"]) == (4, 2, 1, 1)
    assert (state["percent_uncertain"], state["latency_p95_ms"], state["sorting"]) == (25, 12, "ON")


def test_who_comes_later_still_learns_state_and_sensors(bench: Bench) -> None:
    mqtt = bench.agent()
    mqtt.start()
    early = bench.listener()
    until(lambda: early.of("okko/sorter-1/state"))
    late = bench.listener()
    # amqtt hands over what is retained twice; what is claimed is that nothing but "online" is said.
    until(lambda: set(late.of("okko/sorter-1/availability")) == {"online"} and late.of("okko/sorter-1/state"))
    configured = {topic: json.loads(content) for topic, content in late.messages if topic.startswith("homeassistant/")}
    assert len(configured) == len(SENSORS)


def test_the_broker_says_offline_when_the_device_ends_and_when_it_dies(bench: Bench) -> None:
    listener = bench.listener()
    mqtt = bench.agent()
    mqtt.start()
    until(lambda: listener.of("okko/sorter-1/availability") == ["online"])
    mqtt.close()
    until(lambda: listener.of("okko/sorter-1/availability")[-1] == "offline")

    dying = bench.agent(device="dying")
    dying.start()
    until(lambda: listener.of("okko/dying/availability") == ["online"])
    dying._client.socket().shutdown(2)  # as if the power had gone: no farewell is sent
    until(lambda: "offline" in listener.of("okko/dying/availability"))
    until(lambda: listener.of("okko/dying/availability")[-1] == "online")


def test_verdicts_wait_for_a_broker_that_was_away(bench: Bench) -> None:
    mqtt = bench.agent()
    listener = bench.listener()
    mqtt.start()
    until(lambda: listener.of("okko/sorter-1/availability") == ["online"])
    listener.close()
    bench.broker.stop()
    until(lambda: not mqtt._connected.is_set())
    for number in range(1, 11):
        mqtt.hear(decision(number))
    bench.broker.start()
    listener = bench.listener()
    until(lambda: [v["number"] for v in listener.of("okko/sorter-1/verdict")] == list(range(1, 11)))
    until(lambda: listener.of("okko/sorter-1/availability"))
    assert bench.counters[Event.MQTT_LOST] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_password_from_a_file_opens_a_broker_and_a_wrong_one_is_told(kind: type[Amqtt], tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = kind(password=True)
        broker.start()
        stack.callback(broker.stop)
        bench = Bench(broker, stack)
        listener = bench.listener(password=True)
        file = tmp_path / "password"
        file.write_text("wrong\n")
        bench.agent(username=USER, password_file=str(file), device="wrong").start()
        assert "refuses" in until(lambda: bench.warnings)[0]
        file.write_text(PASSWORD + "\n")
        bench.agent(username=USER, password_file=str(file), device="right").start()
        until(lambda: listener.of("okko/right/availability") == ["online"])
        assert not listener.of("okko/wrong/availability")


def test_without_any_broker_nothing_waits_and_what_is_lost_is_counted() -> None:
    counters = Counters()
    settings = MqttSettings(host="127.0.0.1", port=free_port(), device="x")
    mqtt = Mqtt(settings, about=ABOUT, statistics=Statistics(), counters=counters, capacity=10)
    mqtt.start()
    for number in range(1, 101):
        mqtt.hear(decision(number))
    assert counters[Event.MQTT_LOST] == 90
    mqtt.close()
    assert counters[Event.MQTT_LOST] == 100


def test_a_waiting_verdict_holds_no_frame() -> None:
    settings = MqttSettings(host="127.0.0.1", port=free_port())
    mqtt = Mqtt(settings, about=ABOUT, statistics=Statistics(), counters=Counters())
    mqtt.hear(decision())
    assert "frame" not in {name for message in mqtt._queue.queue for name in message.__slots__}


def test_home_assistant_is_told_where_each_value_stands_and_when_the_device_is_away() -> None:
    messages = {topic: json.loads(text) for topic, text in discovery("ha", "okko/s", "s", ABOUT).items()}
    share = messages["ha/sensor/okko-s/percent_uncertain/config"]
    assert share["state_topic"] == "okko/s/state"
    assert share["availability_topic"] == "okko/s/availability"
    assert share["value_template"] == "{{ value_json.percent_uncertain }}"
    assert share["unit_of_measurement"] == "%"
    assert "device_class" not in share
    assert messages["ha/sensor/okko-s/last_verdict/config"]["options"] == ["OK", "KO", "UNCERTAIN"]
    assert "ha/binary_sensor/okko-s/sorting/config" in messages
    assert len({content["unique_id"] for content in messages.values()}) == len(SENSORS)
    assert {tuple(content["device"]["identifiers"]) for content in messages.values()} == {("okko-s",)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topic": "okko/#"}, "mqtt.topic"),
        ({"discovery_prefix": "/ha"}, "mqtt.discovery_prefix"),
        ({"username": "u", "password_file": "/nowhere/file"}, "cannot be read"),
        ({"password_file": "/etc/hostname"}, "mqtt.username"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes: dict[str, str], message: str) -> None:
    with pytest.raises(OkkoError, match=message):
        Mqtt(MqttSettings(host="x", **changes), about=ABOUT, statistics=Statistics(), counters=Counters())


def test_the_broker_is_told_of_a_model_that_takes_over(bench: Bench) -> None:
    listener, mqtt = bench.listener(), bench.agent()
    mqtt.start()

    def models() -> list[str]:
        return [told["device"]["model"] for told in listener.of("homeassistant/sensor/okko-sorter-1/marbles/config")]

    until(lambda: models() == [f"{ABOUT.name} {ABOUT.version}"])
    mqtt.change_model(replace(ABOUT, name="other", version="9"))
    assert until(lambda: len(models()) > 1 and models())[1:] == ["other 9"]
