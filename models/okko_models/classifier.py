"""From a photo to a verdict: one onnxruntime session over a bundle's graph, and the bundle's own decision rule.

The graph takes the raw photo, so nothing here resizes, crops or normalises; what the device computes is what the
trainer computed.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime

from okko_models.bundle import MODEL, Bundle
from okko_models.errors import BundleError, SelfTestError
from okko_models.photo import read_golden
from okko_models.trust.model_check import check_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_models.decision import Verdict


# The last one is optional: a model that cannot tell how new a frame is has no such output.
_OUTPUTS: Final = ("probability", "embedding", "novelty")


@dataclass(frozen=True, slots=True)
class Classification:
    """What a model says about one photo.

    Attributes:
        verdict: OK, KO or UNCERTAIN by the bundle's decision rule.
        label: the most probable label.
        probability: one calibrated probability a label, in the manifest's order, (n_labels,) float32, sums to 1.
        probability_of_ok: summed probability of the good labels.
        embedding: (embedding_size,) float32.
        novelty: how unlike the training photos it is; beyond 1 nothing like it was seen, 0 if the model cannot tell.
    """

    verdict: Verdict
    label: str
    probability: NDArray[np.float32]
    probability_of_ok: float
    embedding: NDArray[np.float32]
    novelty: float = 0.0


def make_session(model: bytes, *, threads: int, beside: bool = False) -> onnxruntime.InferenceSession:
    """Returns a CPU session that uses `threads` threads and does not spin while it waits.

    Args:
        model: the content of a model.onnx.
        threads: for one run.
        beside: other threads go on meanwhile, where the system has files in memory (Linux).

    Raises:
        BundleError: onnxruntime cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without it, 8-bit sums saturate on x86 processors that lack VNNI, and probabilities are off by up to a third.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        with _as_file(model) if beside else contextlib.nullcontext(model) as source:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise BundleError(f"onnxruntime {onnxruntime.__version__} cannot load the model: {error}") from error


@contextlib.contextmanager
def _as_file(model: bytes) -> Iterator[str | bytes]:
    """Gives the model the name of a file in memory, which holds just these bytes.

    onnxruntime parses what it is given as bytes while it holds Python's lock (10 to 14 ms for 18 MB on a PC), and
    a file without it.
    """
    try:
        descriptor = os.memfd_create("model.onnx")
    except (AttributeError, OSError):
        yield model
        return
    try:
        name = f"/proc/self/fd/{descriptor}"
        rest = memoryview(model)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        yield name if os.path.exists(name) else model  # noqa: PTH110 (no path of ours)
    finally:
        os.close(descriptor)


def give_back_memory() -> None:
    """Gives back what the C library keeps of a file's bytes or of a session that is gone.

    Measured with a model of 8 MB: 9 MB right after loading, 2 MB of a program that has begun to sort.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc keeps it, and has this function
        ctypes.CDLL(None).malloc_trim(0)


class Classifier:
    """A bundle, loaded and ready.

    Args:
        bundle: the bundle.
        threads: for one classification.
        beside: other threads go on while it is loaded; see `make_session`.

    Example:
        >>> classifier = Classifier(Bundle.open(Path("marbles.okko")))  # doctest: +SKIP
        >>> classifier.classify(read_photo(Path("marble.jpg"))).verdict  # doctest: +SKIP
        <Verdict.OK: 'OK'>
    """

    def __init__(self, bundle: Bundle, *, threads: int = 1, beside: bool = False) -> None:
        self.bundle = bundle
        self._labels = bundle.manifest.labels
        self._rule = bundle.manifest.decision
        self._ok_columns = [self._labels.index(label) for label in self._rule.ok_labels]
        self.session = make_session(bundle.read(MODEL), threads=threads, beside=beside)
        give_back_memory()
        self._check_interface()
        self._outputs = [name for name in _OUTPUTS if name in {output.name for output in self.session.get_outputs()}]

    @classmethod
    def open(cls, path: Path, *, threads: int = 1) -> Classifier:
        """Opens the bundle in a folder, judges its model, loads it, and repeats the golden frames.

        Raises:
            BundleError: it is not to be trusted on this machine.
        """
        bundle = Bundle.open(path)
        # A bundle may come from anybody: what its model is, its bytes must say before onnxruntime sees them.
        check_bundle(bundle)
        classifier = cls(bundle, threads=threads)
        classifier.self_test()
        return classifier

    def classify(self, image: NDArray[np.uint8]) -> Classification:
        """Classifies one photo.

        Args:
            image: (height, width, 3) RGB, uint8, any height and width.
        """
        probabilities, embeddings, *novelties = self.session.run(self._outputs, {"image": image[None]})
        probability: NDArray[np.float32] = probabilities[0]
        ok = math.fsum(probability[self._ok_columns].tolist())
        novelty = float(novelties[0][0]) if novelties else 0.0
        return Classification(
            verdict=self._rule.verdict(ok, novelty),
            label=self._labels[int(probability.argmax())],
            probability=probability,
            probability_of_ok=ok,
            embedding=embeddings[0],
            novelty=novelty,
        )

    def by_label(self, classification: Classification) -> dict[str, float]:
        """Returns the probabilities with their labels."""
        return dict(zip(self._labels, classification.probability.tolist(), strict=True))

    def self_test(self, before_each: Callable[[], None] = lambda: None) -> float:
        """Repeats the golden frames and returns the largest difference in probability.

        Args:
            before_each: called before each frame; may wait for a moment that suits.

        Raises:
            SelfTestError: the difference is beyond the bundle's tolerance: this machine computes something else; or
                the model fails.
            PhotoError: a golden frame is none.
        """
        worst = 0.0
        for frame in self.bundle.manifest.golden:
            before_each()
            image = read_golden(self.bundle.read(frame.file), name=frame.file)
            try:
                got = self.classify(image).probability
            except Exception as error:  # onnxruntime's exceptions share no public base class
                raise SelfTestError(
                    f"{self.bundle.path}: the model fails on its golden frame {frame.file}; do not use it on this "
                    f"machine (onnxruntime {onnxruntime.__version__}: {error})"
                ) from error
            difference = float(np.abs(got - np.array(frame.probability)).max())
            worst = max(worst, difference if math.isfinite(difference) else math.inf)
        tolerance = self.bundle.manifest.model.tolerance
        if worst > tolerance:
            raise SelfTestError(
                f"{self.bundle.path}: golden frames differ by {worst:.2g} in probability from what the trainer got, "
                f"at most {tolerance:.2g} is allowed; do not trust this model on this machine "
                f"(onnxruntime {onnxruntime.__version__})"
            )
        return worst

    def _check_interface(self) -> None:
        outputs = {output.name: output.shape for output in self.session.get_outputs()}
        inputs = {entry.name: entry.type for entry in self.session.get_inputs()}
        if inputs != {"image": "tensor(uint8)"} or not {"probability", "embedding"} <= set(outputs):
            raise BundleError(
                f"{self.bundle.path}: the model has inputs {inputs} and outputs {sorted(outputs)}; "
                "expected the input image (uint8) and the outputs probability and embedding"
            )
        if len(outputs.get("novelty", [None])) != 1:
            raise BundleError(
                f"{self.bundle.path}: the output novelty has the shape {outputs['novelty']}; "
                "expected one number a photo, or no such output"
            )
        if outputs["probability"][-1] != len(self._labels):
            raise BundleError(
                f"{self.bundle.path}: the model gives {outputs['probability'][-1]} probabilities "
                f"for {len(self._labels)} labels"
            )
