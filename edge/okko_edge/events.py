"""What happens on a device beside the verdicts, by name, and how often: one list for journal, dashboard and metrics.

Every part that notices something counts it here; nothing here acts on it.
"""

from __future__ import annotations

import enum
import threading


class Event(enum.StrEnum):
    """Something that is counted."""

    STALE_FRAME = "stale_frames"
    CORRUPT_FRAME = "corrupt_frames"
    BLACK_FRAME = "black_frames"
    CAMERA_STALLED = "camera_stalls"
    CAMERA_FAILED = "camera_failures"
    CAMERA_REOPENED = "camera_reopened"
    DEADLINE_MISSED = "deadlines_missed"
    INFERENCE_FAILED = "inference_failures"
    UNLIKE_TRAINING = "unlike_training"
    EMPTY_SLOT = "empty_slots"
    TWO_MARBLES = "two_marbles"
    PAUSED_MARBLE = "paused_marbles"
    GATE_FAILED = "gate_failures"
    GATE_LATE = "gate_late"
    LISTENER_FAILED = "listener_failures"
    JOURNAL_LOST = "journal_lost"
    FRAME_LOST = "frames_lost"
    OUTBOX_KEPT = "outbox_kept"
    OUTBOX_LOST = "outbox_lost"
    OUTBOX_EVICTED = "outbox_evicted"
    UPLOADED = "uploaded"
    UPLOAD_FAILED = "upload_failures"
    MQTT_LOST = "mqtt_lost"
    DASHBOARD_FAILED = "dashboard_failures"
    UPDATE_FETCHED = "updates_fetched"
    UPDATE_SWITCHED = "updates_switched"
    UPDATE_CONFIRMED = "updates_confirmed"
    UPDATE_REJECTED = "updates_rejected"
    UPDATE_ROLLED_BACK = "updates_rolled_back"
    UPDATE_FAILED = "update_failures"


class Counters:
    """Counts events; any thread may add, and none ever waits longer than one addition takes."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Event, 0)
        self._lock = threading.Lock()

    def add(self, event: Event, n: int = 1) -> None:
        """Counts an event `n` times."""
        with self._lock:
            self._counts[event] += n

    def __getitem__(self, event: Event) -> int:
        return self._counts[event]

    def snapshot(self) -> dict[str, int]:
        """Returns every event's count, in the order of `Event`."""
        with self._lock:
            return {event.value: count for event, count in self._counts.items()}
