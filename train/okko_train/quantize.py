"""The backbone in 8-bit integers: a quarter of the size, and on most processors twice as fast.

onnxruntime's static quantisation does the work (per channel; per-tensor weights were measured to be bad); crop, resize,
pooling and head stay in float. Whether the result is good enough is measured elsewhere, on the user's photos.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from okko_models.errors import OkkoError
from okko_models.photo import read_photo
from okko_train.feature_graph import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from okko_train.dataset import Photo

CALIBRATION_PHOTOS = 48
# Clip must be among them: else the values before it, which no one needs, would set the scale.
_BACKBONE_OPERATORS = ["Conv", "Clip", "Add", "GlobalAveragePool"]


class _Photos(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, photos: Sequence[Photo]) -> None:
        self._remaining = iter(photos)

    def get_next(self) -> dict[str, Any] | None:
        photo = next(self._remaining, None)
        return None if photo is None else {IMAGE: read_photo(photo.path)[None]}


def quantize(model: onnx.ModelProto, photos: Sequence[Photo]) -> onnx.ModelProto:
    """Returns `model` with its backbone in int8 (unsigned activations, signed weights).

    Args:
        model: a graph from `image` to `features`.
        photos: whose activations set the scales; about `CALIBRATION_PHOTOS` of them are used, evenly spread.

    Raises:
        OkkoError: the folder for temporary files cannot be written, or is full.
    """
    try:
        return _quantize(model, photos)
    except OSError as error:
        raise OkkoError(
            f"{tempfile.gettempdir()}: temporary files could not be written: {error.strerror or error}; "
            "make room there, or name another folder with the environment variable TMPDIR"
        ) from error


def _quantize(model: onnx.ModelProto, photos: Sequence[Photo]) -> onnx.ModelProto:
    step = max(1, len(photos) // CALIBRATION_PHOTOS)
    backbone = [node.name for node in model.graph.node if not node.name.startswith("pre_")]
    with tempfile.TemporaryDirectory(prefix="okko-") as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _Photos(photos[::step]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_BACKBONE_OPERATORS,
            nodes_to_quantize=backbone,
        )
        return onnx.load(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice on pre-processing, which does not apply here, off the terminal."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
