"""What the sorting path costs beside the model: frame in hand to gate command, against a bare `InferenceSession.run`.

    python -m benchmarks.path BUNDLE DATA [--marbles 500]

Simulated marbles pass as in `okko run --pace fast`: every frame goes through the trigger, and journal, digest and
counters work as they do there. Each classified frame is also given to the bare session, in the same run, by turns
before and after the path, so that neither always finds the frame and the weights in the processor's cache.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.tables import replace_section
from okko_edge.agent import Agent
from okko_edge.camera import CameraChoice
from okko_edge.events import Counters
from okko_edge.journal import Journal, RunRecord
from okko_edge.rig import Simulation, set_up
from okko_edge.settings import CameraSettings, Settings
from okko_edge.sorter import Sorter
from okko_edge.summary import Tally
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
# The first inferences allocate the session's memory; neither side is charged for them.
WARM_UP = 20
GOAL_SHARE, GOAL_MS = 0.10, 0.5


class Interleaved:
    """A camera whose frames are also given to the bare session, by turns before and right after the sorter has them.

    Its trigger sees the same frames as the sorter's own, so it knows which of them will be classified.
    """

    def __init__(self, camera, trigger, bare):
        self.bare_ms = []
        self._camera = camera
        self._trigger = trigger
        self._bare = bare
        self._waiting = None

    def read(self, timeout_s=None):
        """Returns the next frame of the camera."""
        if self._waiting is not None:
            self.bare_ms.append(self._bare(self._waiting))
            self._waiting = None
        frame = self._camera.read(timeout_s)
        if frame is not None and self._trigger.see(frame):
            if len(self.bare_ms) % 2:
                self._waiting = frame
            else:
                self.bare_ms.append(self._bare(frame))
        return frame

    def close(self):
        """Closes the camera."""
        self._camera.close()


def main(arguments: list[str]) -> None:
    """Measures, prints the table and writes it into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--marbles", type=int, default=500)
    asked = parser.parse_args(arguments)
    bundle = Bundle.open(asked.bundle)
    path_ms, bare_ms = measure(bundle, asked.data, asked.marbles)
    text = table(bundle, path_ms, bare_ms)
    print(text)
    replace_section(DOCUMENT, "path", text)


def measure(bundle: Bundle, data: Path, marbles: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the path's and the bare session's milliseconds, one of each for every marble, both (marbles,)."""
    classifier = Classifier(bundle, threads=1)
    session = classifier.session

    def bare(frame) -> float:
        start = time.perf_counter()
        session.run(["probability", "embedding"], {"image": frame.image[None]})
        return (time.perf_counter() - start) * 1000

    choice = CameraChoice("sim", data)
    count = marbles + WARM_UP
    settings, fast = Settings(camera=CameraSettings(source=str(choice))), Simulation(fast=True)
    rig = set_up(settings, fast, count, Counters(), print)
    camera = Interleaved(rig.camera, set_up(settings, fast, count, Counters(), print).trigger, bare)
    labels, ok_labels = bundle.manifest.labels, bundle.manifest.decision.ok_labels
    sorter = Sorter(classifier=classifier, trigger=rig.trigger, gate=rig.gate, clock=rig.clock)
    run = RunRecord(
        run="benchmark",
        started_unix_s=time.time(),
        okko="",
        bundle_name=bundle.manifest.name,
        bundle_version=bundle.manifest.version,
        bundle_digest=bundle.digest,
        camera=str(choice),
        gate="sim",
        seed=0,
    )
    path_ms = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite", run, warn=print)
        agent = Agent(
            camera=camera,
            sorter=sorter,
            tally=Tally(labels, ok_labels),
            journal=journal,
            labels=labels,
            clock=rig.clock,
            listeners=[lambda decision: path_ms.append(decision.path_ms)],
        )
        agent.run()  # until the camera ends, so the last marble's bare session is timed as well
        camera.close()
        journal.close()
        assert journal.written == count, f"{journal.written} of {count} marbles are in the journal"
    assert len(path_ms) == len(camera.bare_ms) == count
    return np.array(path_ms[WARM_UP:]), np.array(camera.bare_ms[WARM_UP:])


def table(bundle: Bundle, path_ms: np.ndarray, bare_ms: np.ndarray) -> str:
    """Returns the section of the document."""
    shares = (50, 95, 99)
    path, bare = np.percentile(path_ms, shares), np.percentile(bare_ms, shares)
    over = path - bare
    goal = max(GOAL_SHARE * bare[0], GOAL_MS)
    manifest = bundle.manifest
    digest = manifest.files["model.onnx"].sha256[:12]
    lines = [
        "## The sorting path",
        "",
        f"`python -m benchmarks.path {bundle.path.name} DATA`: {len(path_ms)} simulated marbles, model {manifest.name} "
        f"{manifest.version} ({manifest.model.precision}, {digest}), 1 thread, {os.cpu_count()} cores of "
        f"{platform.machine()}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}. From the "
        "frame in hand to the gate command, against a bare `InferenceSession.run` of the same model on the same "
        "frames, by turns in one run; the journal is being written meanwhile.",
        "",
        "| | p50 | p95 | p99 |",
        "|---|---:|---:|---:|",
        "| frame to gate command | " + " | ".join(f"{value:.2f} ms" for value in path) + " |",
        "| bare session | " + " | ".join(f"{value:.2f} ms" for value in bare) + " |",
        "| overhead | " + " | ".join(f"{value:+.2f} ms" for value in over) + " |",
        f"| median of the differences, frame by frame | {np.median(path_ms - bare_ms):+.2f} ms | | |",
        "",
        f"Goal for p50: at most 10 % or 0.5 ms, whichever is more, here {goal:.2f} ms; measured {over[0]:+.2f} ms "
        f"({over[0] / bare[0]:+.1%}): {'met' if over[0] <= goal else 'missed'}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
