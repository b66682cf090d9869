"""What a user may set, key by key: the shape of okko's one TOML file, with each key's unit, limits and meaning.

Only shapes and limits are stated here; `okko_edge.config` reads files and flags into them. Nothing else in the edge
knows that there is a file: each part takes its own section as an argument.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Microseconds = Annotated[float, Meta(ge=200, le=3000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]

_PIN = r"(?:2[0-7]|1?[0-9])"  # the header's GPIO numbers, as gpiozero and the Pi's own pages count them
_SOURCES = r"\A(?:pi(?::\d+)?|v4l2(?::.+)?|folder:.+|sim:.+)\Z"
_TRIGGERS = rf"\A(?:motion|gpio:{_PIN}|interval:\d+(?:\.\d+)?)\Z"
_GATES = rf"\A(?:(?:servo|relay):{_PIN}|sim|none)\Z"
# Marks a key whose value is a place on the disk; one that starts nowhere starts at the config file's folder.
_PLACE = {"place": True}


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CameraSettings(_Section, frozen=True):
    """Where frames come from."""

    source: Annotated[
        str,
        Meta(pattern=_SOURCES, description="pi, pi:N, v4l2, v4l2:/dev/videoN, folder:DIR or sim:DATA", extra=_PLACE),
    ] = "pi"
    width: Annotated[int, Meta(ge=16, le=4096, description="pixels of a frame, across")] = 640
    height: Annotated[int, Meta(ge=16, le=4096, description="pixels of a frame, down")] = 480
    frames_per_s: Annotated[float, Meta(gt=0, le=1000, description="frame rate")] = 60.0
    exposure_us: Annotated[int, Meta(ge=0, le=1_000_000, description="exposure in microseconds; 0: automatic")] = 4000
    gain: Annotated[float, Meta(ge=0, le=64, description="analogue gain; 0: automatic")] = 2.0
    red_gain: Annotated[float, Meta(ge=0, le=32, description="white balance, red; 0: automatic")] = 0.0
    blue_gain: Annotated[float, Meta(ge=0, le=32, description="white balance, blue; 0: automatic")] = 0.0
    focus_dioptres: Annotated[
        float, Meta(ge=0, le=32, description="focus, 1 / metres, of a camera that has one; 0: automatic")
    ] = 0.0
    stall_s: Annotated[float, Meta(gt=0, le=60, description="without a frame for so long, it is opened anew")] = 2.0


class TriggerSettings(_Section, frozen=True):
    """When there is something to look at."""

    kind: Annotated[str, Meta(pattern=_TRIGGERS, description="motion, gpio:PIN or interval:SECONDS")] = "motion"
    settle_s: Annotated[float, Meta(gt=0, le=10, description="motion: still for so long means at rest")] = 0.06
    passing: Annotated[bool, Meta(description="motion: the belt never rests; look when a marble is in the middle")] = (
        False
    )
    axis: Annotated[
        Literal["across", "down"], Meta(description="motion, passing: the way that the belt moves through the view")
    ] = "across"
    delay_s: Annotated[float, Meta(ge=0, le=60, description="gpio: from the beam to the middle of the view")] = 0.0
    active_high: Annotated[bool, Meta(description="gpio: the pin is high while the beam is broken")] = True
    debounce_s: Annotated[float, Meta(ge=0, le=1, description="gpio: edges closer together are one")] = 0.005


class GateSettings(_Section, frozen=True):
    """What moves, and where to. Servo positions are pulse widths; `okko calibrate` finds them."""

    kind: Annotated[str, Meta(pattern=_GATES, description="servo:PIN, relay:PIN, sim or none")] = "sim"
    driver: Annotated[
        Literal["auto", "hardware", "lgpio"], Meta(description="servo: hardware PWM, exact lgpio, or the better one")
    ] = "auto"
    ok_us: Annotated[Microseconds, Meta(description="servo: pulse for OK, microseconds")] = 2000.0
    ko_us: Annotated[Microseconds, Meta(description="servo: pulse for KO")] = 1000.0
    uncertain_us: Annotated[Microseconds, Meta(description="servo: pulse for UNCERTAIN")] = 1500.0
    rest_us: Annotated[Microseconds, Meta(description="servo: pulse at rest")] = 1500.0
    min_us: Annotated[Microseconds, Meta(description="servo: never a shorter pulse, the stop is there")] = 1000.0
    max_us: Annotated[Microseconds, Meta(description="servo: never a longer pulse")] = 2000.0
    travel_s: Annotated[float, Meta(ge=0, le=60, description="from the middle of the view to the gate")] = 0.0
    move_s: Annotated[float, Meta(ge=0, le=5, description="servo: pulses last so long, then it is detached")] = 0.4
    back_to_rest_s: Annotated[float, Meta(ge=0, le=60, description="after a verdict, back to rest; 0: stay")] = 0.0
    fires_on: Annotated[
        Literal["OK", "KO", "UNCERTAIN", "not OK"], Meta(description="relay: the verdict that it fires on")
    ] = "not OK"
    pulse_s: Annotated[float, Meta(gt=0, le=10, description="relay: how long it is on")] = 0.05
    relay_active_high: Annotated[bool, Meta(description="relay: on means a high pin")] = True


class SortingSettings(_Section, frozen=True):
    """The sorting path itself."""

    threads: Annotated[int, Meta(ge=1, le=64, description="processor threads for the network")] = 1
    deadline_s: Annotated[float, Meta(gt=0, le=60, description="no fresh frame for so long: the marble is KO")] = 0.5
    empty_labels: Annotated[tuple[str, ...], Meta(description="labels that mean an empty slot")] = ("empty",)
    two_labels: Annotated[tuple[str, ...], Meta(description="labels that mean several marbles in view")] = ("two",)


class JournalSettings(_Section, frozen=True):
    """What is remembered."""

    path: Annotated[str, Meta(description="the SQLite file; empty: in the user's state folder", extra=_PLACE)] = ""
    max_days: Annotated[float, Meta(gt=0, description="older decisions are deleted")] = 90.0
    max_mb: Annotated[float, Meta(ge=1, description="megabytes; beyond, the oldest decisions are deleted")] = 512.0
    frames: Annotated[
        Literal["none", "all"], Meta(description="whether every frame is kept for okko replay, within frames_max_mb")
    ] = "none"
    frames_max_mb: Annotated[float, Meta(ge=1, description="megabytes for kept frames; beyond, the oldest go")] = 1024.0


class OutboxSettings(_Section, frozen=True):
    """Frames worth a label, kept until there is a network."""

    enabled: Annotated[bool, Meta(description="keep frames worth a label")] = False
    folder: Annotated[str, Meta(description="where; empty: in the user's state folder", extra=_PLACE)] = ""
    max_mb: Annotated[float, Meta(ge=1, description="megabytes; when full, the most ordinary go first")] = 256.0
    random_share: Annotated[Share, Meta(description="share of ordinary frames that are kept too")] = 0.01
    near_threshold: Annotated[Share, Meta(description="probability this close to a threshold is worth a label")] = 0.1
    bucket: Annotated[str, Meta(description="s3://bucket/prefix to upload to; empty: only keep")] = ""
    endpoint_url: Annotated[str, Meta(description="another S3 than Amazon's")] = ""
    device: Annotated[str, Meta(description="this device's name in keys; empty: the host's name")] = ""
    retry_s: Annotated[float, Meta(gt=0, le=86400, description="first pause after a failure; doubles to an hour")] = 5.0


class DashboardSettings(_Section, frozen=True):
    """The web page and /metrics."""

    listen: Annotated[str, Meta(description="ADDRESS:PORT; empty: none; not loopback: needs a password")] = ""
    password_hash: Annotated[str, Meta(description="made by okko config password")] = ""
    host_names: Annotated[
        tuple[str, ...], Meta(description="further names that the page is opened by, such as a proxy's")
    ] = ()


class MqttSettings(_Section, frozen=True):
    """Verdicts for a broker such as Home Assistant's."""

    host: Annotated[str, Meta(description="the broker; empty: none")] = ""
    port: Annotated[int, Meta(ge=1, le=65535, description="1883, or 8883 with tls")] = 1883
    tls: Annotated[bool, Meta(description="encrypt, with the system's certificates")] = False
    username: Annotated[str, Meta(description="empty: none")] = ""
    password_file: Annotated[str, Meta(description="file that holds the password; empty: none", extra=_PLACE)] = ""
    topic: Annotated[str, Meta(min_length=1, description="first part of every topic")] = "okko"
    discovery_prefix: Annotated[str, Meta(description="Home Assistant's; empty: no discovery")] = "homeassistant"
    device: Annotated[str, Meta(description="this device's name; empty: the host's name")] = ""


class UpdatesSettings(_Section, frozen=True):
    """New models, brought by a network or a USB stick, tried beside the one in service, and gone back from."""

    enabled: Annotated[bool, Meta(description="sort with the newest model that proved itself, bundle until then")] = (
        False
    )
    folder: Annotated[str, Meta(description="models; empty: in the user's state folder", extra=_PLACE)] = ""
    registry: Annotated[
        str, Meta(description="a folder, s3://, https:// or http://; empty: as enrolled (okko device enroll)")
    ] = ""
    endpoint_url: Annotated[str, Meta(description="another S3 than Amazon's")] = ""
    channel: Annotated[Literal["stable", "candidate"], Meta(description="which channel this device follows")] = "stable"
    device: Annotated[str, Meta(description="this device's name in the registry; empty: the host's name")] = ""
    poll_s: Annotated[float, Meta(ge=5, le=604_800, description="seconds between looks at the registry")] = 3600.0
    max_mb: Annotated[float, Meta(ge=1, le=256, description="megabytes; a larger model is not fetched")] = 64.0
    fetch_memory_mb: Annotated[
        float, Meta(ge=128, le=4096, description="megabytes that the fetching process may allocate")
    ] = 256.0
    latency_ms: Annotated[float, Meta(gt=0, le=60_000, description="a new model may take so long for a frame")] = 200.0
    shadow_marbles: Annotated[
        int, Meta(ge=0, le=1_000_000, description="marbles that it judges beside the old one; 0: none")
    ] = 200
    agreement: Annotated[Share, Meta(description="at least this share with the old model's verdict")] = 0.9
    more_uncertain: Annotated[Share, Meta(description="its share of UNCERTAIN may be larger by so much")] = 0.05
    times_slower: Annotated[float, Meta(ge=1, le=100, description="it may take so many times the old one's time")] = 2.0
    probation_marbles: Annotated[
        int, Meta(ge=1, le=1_000_000, description="marbles that it sorts before it counts as proven")
    ] = 100
    probation_errors: Annotated[
        int, Meta(ge=0, le=1_000_000, description="more failures than these before that: back to the old model")
    ] = 2
    probation_starts: Annotated[
        int, Meta(ge=1, le=100, description="so many starts that ended badly before that: back to the old model")
    ] = 3


class Settings(_Section, frozen=True):
    """The whole file."""

    bundle: Annotated[
        str, Meta(description="the model to sort with; a command-line argument goes first", extra=_PLACE)
    ] = ""
    camera: CameraSettings = msgspec.field(default_factory=CameraSettings)
    trigger: TriggerSettings = msgspec.field(default_factory=TriggerSettings)
    gate: GateSettings = msgspec.field(default_factory=GateSettings)
    sorting: SortingSettings = msgspec.field(default_factory=SortingSettings)
    journal: JournalSettings = msgspec.field(default_factory=JournalSettings)
    outbox: OutboxSettings = msgspec.field(default_factory=OutboxSettings)
    dashboard: DashboardSettings = msgspec.field(default_factory=DashboardSettings)
    mqtt: MqttSettings = msgspec.field(default_factory=MqttSettings)
    updates: UpdatesSettings = msgspec.field(default_factory=UpdatesSettings)
