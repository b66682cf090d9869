"""Reads the weights in a legacy `.pth` file (torch before 1.6) without torch, and admits nothing but tensors.

Such a file is a row of pickles followed by raw numbers, and a pickle can name any function to call. Here only the five
names that a table of tensors needs are known; any other ends in an error before it is called. The layout follows
`_legacy_load` in torch's `serialization.py`; the zip layout of later versions is not read.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001

_STORAGE_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}


class PthError(OkkoError):
    """A file that should hold tensors in torch's legacy format, and does not or holds something else."""


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    length: int


@dataclass(frozen=True)
class _Tensor:
    """A view into a storage whose numbers stand further down in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def cut_from(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Returns the tensor as an array of its own; ValueError when it would reach beyond the storage."""
        if min((self.offset, *self.shape, *self.strides)) < 0 or len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor has shape {self.shape}, strides {self.strides} and offset {self.offset}")
        if math.prod(self.shape) == 0:
            return np.empty(self.shape, numbers.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if last >= len(numbers):
            raise ValueError(f"a tensor ends at element {last} of a storage of {len(numbers)}")
        in_bytes = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, in_bytes).copy()


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_gradient: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: _Tensor, *_gradient: object) -> _Tensor:
    return tensor


class _TensorsOnly(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return _rebuild_tensor
            case "torch._utils", "_rebuild_parameter":
                return _rebuild_parameter
            case "torch", _ if dtype := _STORAGE_TYPES.get(name):
                return _StorageType(dtype)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no tensor needs")

    def persistent_load(self, identifier: Any) -> _Storage:
        kind, storage_type, key, _device, length = identifier[:5]
        if kind != "storage" or identifier[5:] not in ((), (None,)) or not isinstance(storage_type, _StorageType):
            raise pickle.UnpicklingError(f"it refers to {identifier!r:.80}; only whole storages are known")
        return self.storages.setdefault(key, _Storage(key, storage_type.dtype, length))


def read_pth(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the tensors of a `state_dict` by name, as arrays that share no memory.

    Raises:
        PthError: the file is not in the legacy format, is cut short, or names anything but tensors.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except OSError:
            raise
        except Exception as error:  # a forged pickle can make the unpickler raise nearly anything
            raise PthError(
                f"{path}: not a table of tensors in torch's legacy format ({error or type(error).__name__}); "
                "nothing in it was run; install the file again"
            ) from error


def _read(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    if (magic := _TensorsOnly(file).load()) != _MAGIC:
        raise ValueError(f"it starts with {magic!r:.40}, not with torch's magic number")
    if (protocol := _TensorsOnly(file).load()) != _PROTOCOL:
        raise ValueError(f"protocol {protocol!r:.40}, {_PROTOCOL} expected")
    if not _TensorsOnly(file).load().get("little_endian"):
        raise ValueError("its numbers are big-endian")
    unpickler = _TensorsOnly(file)
    tensors = unpickler.load()
    numbers = {key: _read_storage(file, unpickler.storages[key]) for key in _TensorsOnly(file).load()}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"{name!r:.40} is a {type(tensor).__name__}, not a named tensor")
    return {name: tensor.cut_from(numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_storage(file: IO[bytes], storage: _Storage) -> NDArray[Any]:
    (length,) = struct.unpack("<q", file.read(8))
    if length != storage.length or length < 0:
        raise ValueError(f"storage {storage.key} holds {length} numbers, {storage.length} expected")
    content = file.read(length * storage.dtype.itemsize)
    if len(content) != length * storage.dtype.itemsize:
        raise ValueError("it is cut short")
    return np.frombuffer(content, storage.dtype)
