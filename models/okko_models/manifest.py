"""The manifest: everything about a model that is not its weights, as typed JSON.

Only shapes and types are stated here; `okko_models.bundle` compares them with the files. Unknown fields are refused, so
a manifest from a later schema is never half understood.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from okko_models.damaged import decode_json
from okko_models.decision import DecisionRule  # noqa: TC001 (msgspec reads it at run time)
from okko_models.errors import BundleError

SCHEMA_VERSION = 2
MAX_MANIFEST_BYTES = 1 << 20

SHA256_PATTERN = r"\A[0-9a-f]{64}\Z"
NAME_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z"

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256_PATTERN)]
# A path inside the bundle: one folder deep at most, no dot names, so it cannot leave the bundle.
FilePath = Annotated[str, msgspec.Meta(pattern=r"\A(?:[A-Za-z0-9][A-Za-z0-9_-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Size = Annotated[int, msgspec.Meta(ge=0)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Interval(_Record, frozen=True):
    """A measured value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class FileEntry(_Record, frozen=True):
    """Size in bytes and digest of one file of the bundle."""

    size: Size
    sha256: Sha256


class GoldenFrame(_Record, frozen=True):
    """One frame of `golden/` with the probabilities that the trainer got, in the order of the manifest's labels."""

    file: FilePath
    probability: tuple[float, ...]


class Model(_Record, frozen=True):
    """What is needed to run `model.onnx`, and how exactly it repeats itself on another processor.

    Attributes:
        precision: "float32" or "int8" (the backbone's weights and activations).
        opset: ONNX operator set of the graph.
        minimum_onnxruntime: oldest onnxruntime that knows this opset.
        embedding_size: D of the output `embedding`.
        tolerance: largest difference in probability that the golden frames may show on a device.
    """

    precision: str
    opset: int
    minimum_onnxruntime: str
    embedding_size: int
    tolerance: float


class DatasetEntry(_Record, frozen=True):
    """The photos that the model was made of; the digest names exactly these photos with these labels."""

    digest: Sha256
    photos: dict[str, int]
    group_by: str | None
    test_photos: int


class Provenance(_Record, frozen=True):
    """What produced the bundle, enough to produce it again."""

    command: str
    seed: int
    python: str
    versions: dict[str, str]
    hyperparameters: dict[str, bool | int | float | str]


class Manifest(_Record, frozen=True):
    """The content of `manifest.json`; see DESIGN "The contract: a bundle".

    Attributes:
        probability_means: what the probabilities say, in words, where they are not chances learnt from all labels.
    """

    schema_version: int
    name: Name
    version: Name
    created: str
    labels: tuple[str, ...]
    decision: DecisionRule
    model: Model
    metrics: dict[str, Interval]
    dataset: DatasetEntry
    provenance: Provenance
    golden: tuple[GoldenFrame, ...]
    files: dict[FilePath, FileEntry]
    probability_means: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be two or more different names")
        if not set(self.decision.ok_labels) < set(self.labels):
            raise ValueError("decision.ok_labels must be some, and not all, of the labels")
        if any(len(frame.probability) != len(self.labels) for frame in self.golden):
            raise ValueError("every golden frame needs one probability a label")


class _Schema(msgspec.Struct, frozen=True):
    schema_version: int


def encode(manifest: Manifest) -> bytes:
    """Returns the manifest as indented UTF-8 JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """Reads a manifest.

    Raises:
        BundleError: too large, not JSON, of another schema version, or not of the stated shape.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"manifest.json has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are read")
    try:
        found = decode_json(data, _Schema).schema_version
        if found != SCHEMA_VERSION:
            raise BundleError(
                f"manifest.json has schema version {found}; this okko reads version {SCHEMA_VERSION}. "
                + ("Update okko on this machine." if found > SCHEMA_VERSION else "Train the model again.")
            )
        return decode_json(data, Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"manifest.json is not a manifest of okko: {error}") from error
