"""What single keys cannot say: which values contradict each other, and what the machine lacks for them.

`contradictions` is pure; `missing` looks at the disk. Both return findings instead of raising, so that a person is told
of everything at once.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from okko_models.host import processors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okko_edge.settings import GateSettings, Settings

HARDWARE_PWM_PINS = (12, 13, 18, 19)


@dataclass(frozen=True)
class Finding:
    """Something about a key that is wrong (`fatal`) or looks wrong.

    Attributes:
        key: the dotted name of the key to change.
        said: what is wrong and what to do, as a sentence that continues the key's name.
        fatal: whether sorting cannot begin with it.
    """

    key: str
    said: str
    fatal: bool = True


def contradictions(settings: Settings) -> list[Finding]:
    """Returns what cannot be, or can hardly be meant, whatever the machine."""
    return [*_camera(settings), *_gate(settings.gate), *_pins(settings), *_beside(settings)]


def missing(settings: Settings) -> list[Finding]:
    """Returns what the settings name and this machine does not have."""
    return [*_places(settings)]


def _camera(settings: Settings) -> Iterator[Finding]:
    camera, sorting = settings.camera, settings.sorting
    if camera.exposure_us * camera.frames_per_s > 1e6:
        longest = 1e6 / camera.frames_per_s
        yield Finding(
            "camera.exposure_us",
            f"is {camera.exposure_us}, longer than a frame of {longest:.0f} µs: frames will come more slowly",
            fatal=False,
        )
    if (camera.red_gain == 0) != (camera.blue_gain == 0):
        yield Finding("camera.red_gain", "and blue_gain: set both, or leave both 0 (automatic white balance)")
    if sorting.deadline_s * camera.frames_per_s < 2:
        yield Finding(
            "sorting.deadline_s",
            f"is {sorting.deadline_s:g}, less than two frames at {camera.frames_per_s:g} a second: "
            "every marble would be late",
        )
    if both := sorted(set(sorting.empty_labels) & set(sorting.two_labels)):
        yield Finding("sorting.two_labels", f"and empty_labels both name {both[0]!r}; a label has one meaning")


def _gate(gate: GateSettings) -> Iterator[Finding]:
    kind, _, pin = gate.kind.partition(":")
    if kind in {"servo", "sim"}:
        if gate.min_us >= gate.max_us:
            yield Finding("gate.min_us", f"is {gate.min_us:g}; expected less than max_us, which is {gate.max_us:g}")
        else:
            for name in ("ok_us", "ko_us", "uncertain_us", "rest_us"):
                pulse = getattr(gate, name)
                if not gate.min_us <= pulse <= gate.max_us:
                    yield Finding(
                        f"gate.{name}",
                        f"is {pulse:g}, outside the stops: expected {gate.min_us:g} to {gate.max_us:g} "
                        "(min_us and max_us); `okko calibrate` finds it",
                    )
        if gate.ok_us == gate.ko_us:
            yield Finding("gate.ok_us", "and ko_us are the same place, so nothing would be sorted")
        if pin and gate.driver == "hardware" and int(pin) not in HARDWARE_PWM_PINS:
            pins = ", ".join(map(str, HARDWARE_PWM_PINS))
            yield Finding("gate.driver", f'is "hardware", which GPIO{pin} does not have; expected a servo on {pins}')
        if 0 < gate.back_to_rest_s < gate.move_s:
            yield Finding(
                "gate.back_to_rest_s", f"is {gate.back_to_rest_s:g}, before the move of {gate.move_s:g} s has ended"
            )


def _pins(settings: Settings) -> Iterator[Finding]:
    trigger, gate = settings.trigger.kind.partition(":"), settings.gate.kind.partition(":")
    if trigger[0] == "gpio" and gate[1] and int(trigger[2]) == int(gate[2]):
        yield Finding("trigger.kind", f"and gate.kind both use GPIO{trigger[2]}; give each a pin of its own")


def _beside(settings: Settings) -> Iterator[Finding]:
    board, outbox, mqtt = settings.dashboard, settings.outbox, settings.mqtt
    if board.listen:
        host, colon, port = board.listen.rpartition(":")
        if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
            yield Finding("dashboard.listen", f'is "{board.listen}"; expected ADDRESS:PORT, for example 127.0.0.1:8080')
        elif not board.password_hash and not _is_loopback(host):
            yield Finding(
                "dashboard.listen",
                f"is {board.listen}, which others can reach, and there is no dashboard.password_hash; "
                "`okko config password` makes one, or listen on 127.0.0.1",
            )
    if outbox.bucket and not outbox.bucket.startswith("s3://"):
        yield Finding("outbox.bucket", f'is "{outbox.bucket}"; expected s3://bucket/prefix')
    if outbox.bucket and not outbox.enabled:
        yield Finding("outbox.bucket", "is set, but outbox.enabled is false: nothing is kept or sent", fatal=False)
    if mqtt.tls and mqtt.port == 1883:
        yield Finding(
            "mqtt.port", "is 1883, the port without encryption, while tls is true; usual is 8883", fatal=False
        )
    if mqtt.password_file and not mqtt.username:
        yield Finding("mqtt.password_file", "is set without mqtt.username; a broker wants both")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _places(settings: Settings) -> Iterator[Finding]:
    if settings.bundle and not Path(settings.bundle).is_dir():
        yield Finding("bundle", f"{settings.bundle} is not a folder; `okko train --out` writes bundles")
    kind, _, place = settings.camera.source.partition(":")
    if kind in {"folder", "sim"} and not Path(place).is_dir():
        yield Finding("camera.source", f"{place} is not a folder")
    if kind == "v4l2" and place.startswith("/") and not Path(place).exists():
        yield Finding("camera.source", f"{place} is not there; is the camera plugged in?", fatal=False)
    if settings.mqtt.password_file and not Path(settings.mqtt.password_file).is_file():
        yield Finding("mqtt.password_file", f"{settings.mqtt.password_file} is not a file")
    if settings.sorting.threads > processors():
        yield Finding(
            "sorting.threads",
            f"is {settings.sorting.threads}, but there are {processors()} processors: more threads only wait",
            fatal=False,
        )
