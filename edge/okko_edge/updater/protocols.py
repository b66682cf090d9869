"""What the updater asks of the agent: a place to try a model, and the model in service.

The updater calls everything here on its own thread, except `Trial.hear`, which is a listener of the sorting path and
therefore returns at once. A trial says what it measured; whether that is good enough is decided in `state`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from okko_edge.sorter import Decision


class RejectedError(OkkoError):
    """The model itself is at fault: it is remembered as rejected, with this message as the reason."""


class TrialError(OkkoError):
    """The model could not be tried now (no memory, the child process was killed): it is tried again later."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What a model did alone, in a child process.

    Attributes:
        golden_difference: largest difference in probability from what the trainer got.
        latency_ms: 95th percentile of the time for one photo of the camera's size.
        memory_mb: the child's largest resident memory.
    """

    golden_difference: float
    latency_ms: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """How a new model judged real marbles beside the model in service, without acting.

    Attributes:
        marbles: judged by both so far.
        agreement: share of them with the same verdict; 0 before the first.
        uncertain_share_old: share of them that the model in service called UNCERTAIN.
        uncertain_share_new: likewise the new model.
        latency_ms_old: median time in the model in service.
        latency_ms_new: median time in the new model, measured the same way.
        lost: marbles that the new model did not see because it was still busy; they are not in `marbles`.
        finished: whether all marbles asked for were judged.
    """

    marbles: int
    agreement: float
    uncertain_share_old: float
    uncertain_share_new: float
    latency_ms_old: float
    latency_ms_new: float
    lost: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Health:
    """How the model in service did since it was put there by `InService.change_model`, or since the start.

    Attributes:
        marbles: judged by it.
        inference_failures: marbles for which it gave no result, or no number.
        deadline_misses: marbles whose verdict came too late because the model took most of the time that there was.
    """

    marbles: int
    inference_failures: int
    deadline_misses: int


class Trial(Protocol):
    """A new model in a child process of low priority; made by a `TrialFactory`, which starts nothing yet."""

    def self_test(self) -> SelfTest:
        """Starts the child, loads the model, repeats the golden frames and measures; takes seconds, bounded.

        Raises:
            RejectedError: the model cannot be loaded, repeats its golden frames wrongly, or takes too much memory.
            TrialError: it could not be tried.
        """

    def shadow(self, marbles: int) -> None:
        """From now on `hear` hands frames to the child, until so many marbles were judged by both."""

    def hear(self, decision: Decision) -> None:
        """A listener of the sorting path: returns at once and never raises."""

    def report(self) -> ShadowReport:
        """Says how far the shadow run is; returns at once.

        Raises:
            RejectedError: the model failed on a marble.
            TrialError: the child is gone.
        """

    def close(self) -> None:
        """Ends the child; may be called at any time, and twice."""


class InService(Protocol):
    """The model that sorts."""

    @property
    def digest(self) -> str:
        """Its bundle's digest."""

    def add_listener(self, hear: Callable[[Decision], None]) -> None:
        """From now on `hear` hears each decision, on the sorting thread."""

    def remove_listener(self, hear: Callable[[Decision], None]) -> None:
        """No longer; nothing happens if it did not."""

    def change_model(self, folder: Path | None) -> None:
        """Loads another bundle beside the one in service, repeats its golden frames, and sorts with it from the next
        marble on; `health` counts from 0.

        Args:
            folder: the bundle's; None: the bundle that the agent was started with by its configuration.

        Raises:
            OkkoError: it cannot be loaded; the model in service has not changed.
        """  # noqa: D205

    def health(self) -> Health:
        """Returns how the model in service has done; returns at once."""


class TrialFactory(Protocol):
    """Makes trials."""

    def __call__(self, folder: Path) -> Trial:
        """Returns a trial of the bundle in `folder`, beside the model in service."""
