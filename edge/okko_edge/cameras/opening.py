"""Makes the camera that was asked for, and says why it cannot be had. The only place that knows all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge.camera import CameraError
from okko_edge.cameras import pi, v4l2
from okko_edge.cameras.supervised import SupervisedCamera

if TYPE_CHECKING:
    from okko_edge.camera import CameraChoice
    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.settings import CameraSettings


def open_camera(choice: CameraChoice, settings: CameraSettings, clock: Clock, counters: Counters) -> SupervisedCamera:
    """Opens a real camera and keeps it running until it is closed.

    A camera that is not plugged in is waited for; what will not change by waiting is an error at once.

    Raises:
        CameraError: a package is missing, or the settings contradict each other.
        ValueError: the choice is no real camera.
    """
    if not choice.is_hardware:
        raise ValueError(f"choice must be a real camera, not {choice}")
    if bool(settings.red_gain) != bool(settings.blue_gain):
        raise CameraError(
            f"camera.red_gain is {settings.red_gain:g} and camera.blue_gain {settings.blue_gain:g}; "
            "expected both above 0, or both 0 for an automatic white balance"
        )
    if choice.kind == "pi":
        pi.load()
        return SupervisedCamera(lambda: pi.PiCamera(settings, choice.number), settings, counters, clock)
    v4l2.load()
    return SupervisedCamera(lambda: v4l2.V4l2Camera(settings, choice.device), settings, counters, clock)


def why_not_available(choice: CameraChoice) -> str | None:
    """Says why a camera cannot be used and what to do about it; None if it can.

    A real camera is opened for a moment, so one that is in use is not available.
    """
    if choice.kind == "pi":
        return pi.why_not_available(choice.number)
    if choice.kind == "v4l2":
        return v4l2.why_not_available(choice.device)
    return None if choice.folder.is_dir() else f"{choice.folder} is not a folder"
