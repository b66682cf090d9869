"""Looks at the camera, trigger and gate that the settings name, by asking each part why it would not work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge.camera import CameraChoice
from okko_edge.cameras import opening as cameras
from okko_edge.doctor.findings import fail, ok, warn
from okko_edge.gates import opening as gates
from okko_edge.gates import sysfs_pwm
from okko_edge.triggers import opening as triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okko_edge.doctor.findings import Line
    from okko_edge.settings import GateSettings, Settings, TriggerSettings


def look(settings: Settings) -> Iterator[Line]:
    """Looks at the parts that are chosen; those that are not are nobody's concern."""
    yield _camera(settings.camera.source)
    yield _trigger(settings.trigger)
    yield from _gate(settings.gate)


def _camera(source: str) -> Line:
    try:
        reason = cameras.why_not_available(CameraChoice.parse(source))
    except ValueError as error:
        reason = str(error)
    if reason is None:
        return ok("camera", source)
    return fail(
        "camera", f"{source}: {reason}", "mend that; or, if okko's own service has the camera: sudo systemctl stop okko"
    )


def _trigger(trigger: TriggerSettings) -> Line:
    reason = triggers.why_not_available(trigger)
    if reason is None:
        return ok("trigger", trigger.kind)
    return fail("trigger", f"{trigger.kind}: {reason}", "mend that, or use the trigger motion, which needs no pin")


def _gate(gate: GateSettings) -> Iterator[Line]:
    reason = gates.why_not_available(gate)
    if reason is not None:
        yield fail("gate", f"{gate.kind}: {reason}", "mend that, or try without: --gate sim")
        return
    kind, _, pin = gate.kind.partition(":")
    if kind in {"sim", "none"}:
        yield warn("gate", f"{gate.kind}: nothing will move", 'set gate.kind, for example to "servo:18"')
        return
    yield ok("gate", gate.kind)
    if kind == "servo":
        no_pwm = sysfs_pwm.why_not_available(int(pin)) if gate.driver != "lgpio" else "gate.driver is lgpio"
        if no_pwm is None:
            yield ok("servo pulses", f"by the processor's own PWM, GPIO{pin}")
        else:
            yield warn("servo pulses", f"by software, which trembles under load: {no_pwm}", "see the handbook on PWM")
