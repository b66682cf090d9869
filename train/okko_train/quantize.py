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

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from okko_models.errors import OkkoError
from okko_models.photo import read_photo
from okko_train.feature_graph import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from okko_train.dataset import Photo

Ranges = dict[str, tuple[float, float]]
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
    """Returns `model` with its backbone in int8, its scales set by `photos`; see the two steps below."""
    return quantize_with(model, activation_ranges(model, photos))


def activation_ranges(model: onnx.ModelProto, photos: Sequence[Photo]) -> Ranges:
    """Returns the least and the greatest value of every activation of the backbone, by the tensor's name.

    Args:
        model: a graph from `image` to `features`.
        photos: about `CALIBRATION_PHOTOS` of them are used, evenly spread.

    Raises:
        OkkoError: the folder for temporary files cannot be written, or is full.
    """
    step = max(1, len(photos) // CALIBRATION_PHOTOS)
    with _temporary() as folder:
        source = folder / "float.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(source, _BACKBONE_OPERATORS, str(folder / "augmented.onnx"))
        calibrator.collect_data(_Photos(photos[::step]))
        found = calibrator.compute_data()
        return {
            name: (float(np.min(data.range_value[0])), float(np.max(data.range_value[1])))
            for name, data in found.items()
        }


def quantize_with(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Returns `model` with its backbone in int8 (unsigned activations, signed weights).

    Args:
        model: a graph from `image` to `features`.
        ranges: of its activations, as `activation_ranges` returns them.

    Raises:
        OkkoError: the folder for temporary files cannot be written, or is full.
    """
    known = {name: tuple(np.array(value, np.float32) for value in ends) for name, ends in ranges.items()}
    with _temporary() as folder:
        source, target = folder / "float.onnx", folder / "int8.onnx"
        onnx.save(model, source)
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(source),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, known),
            nodes_to_quantize=[node.name for node in model.graph.node if not node.name.startswith("pre_")],
            nodes_to_exclude=[],
            op_types_to_quantize=_BACKBONE_OPERATORS,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(target)
        return onnx.load(target)


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for a while, in which onnxruntime keeps its advice to itself."""
    try:
        with tempfile.TemporaryDirectory(prefix="okko-") as folder, _quiet():
            yield Path(folder)
    except OSError as error:
        raise OkkoError(
            f"{tempfile.gettempdir()}: temporary files could not be written: {error.strerror or error}; "
            "make room there, or name another folder with the environment variable TMPDIR"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice on pre-processing, which does not apply here, off the terminal."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
