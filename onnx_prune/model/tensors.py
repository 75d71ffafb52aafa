"""The data of one TensorProto: check it, read it without copying where that can be, write it.

Data live in one of three places: `raw_data`, a typed field (`float_data`, ...), or a file beside the model
("external data"). A file is only ever opened inside the model's own folder.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_prune.errors import InputError
from onnx_prune.model import lazy, wire

_DATA_FIELDS = (
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
    "external_data",
    "segment",
)
_PACKED_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4}
_PACKED_BITS |= {"float6_e2m3fn": 6, "float6_e3m2fn": 6}
_MOST_BYTES = 2**62
_LOSSLESS = "surrogateescape"  # strings need not be UTF-8


def copy_fields(source: Message, target: Message, skip: Collection[str] = ()) -> None:
    """Copy the fields that are set, but for some; fields unknown to onnx stay behind.

    Example:
        >>> copy = TensorProto()
        >>> copy_fields(TensorProto(name="w", dims=[2], raw_data=b"1234"), copy, skip=("raw_data",))
        >>> copy == TensorProto(name="w", dims=[2])
        True
    """
    for field, value in source.ListFields():
        if field.name in skip:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, bytes) and field.type == field.TYPE_STRING:
            # text that is not UTF-8, which nothing but the parser takes
            target.MergeFromString(b"".join(wire.block(field.number, [value])))  # type: ignore[arg-type]
        else:
            setattr(target, field.name, value)


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's data are in a file beside the model.

    Example:
        >>> is_external(TensorProto(data_location=TensorProto.EXTERNAL))
        True
    """
    return is_outside(tensor) and not lazy.is_put_off(tensor)


def is_outside(tensor: TensorProto) -> bool:
    """Whether the tensor's data are in a file, beside the model or the model's own (`onnx_prune.model.lazy`).

    Example:
        >>> is_outside(TensorProto(raw_data=b"1234"))
        False
    """
    return tensor.data_location == TensorProto.EXTERNAL


def may_wait(tensor: TensorProto, size: int) -> bool:
    """Whether a tensor that lacks nothing but raw data of this size is sound, and they can be read later.

    Example:
        >>> may_wait(TensorProto(data_type=TensorProto.FLOAT, dims=[2]), 8)
        True
    """
    odd = is_outside(tensor) or tensor.HasField("segment") or tensor.data_type == TensorProto.STRING
    with suppress(InputError):  # which `check` will say
        return not odd and nbytes(tensor) == size
    return False


def tensors(root: GraphProto | FunctionProto) -> Iterator[TensorProto]:
    """Every tensor stored in a graph or function: initializers and attributes, in subgraphs too.

    Sparse initializers are left out. Subgraphs come after the graph that holds them, however deep they are.

    Example:
        >>> weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
        >>> [tensor.name for tensor in tensors(helper.make_graph([], "g", [], [], [weight]))]
        ['w']
    """
    for graph in _graphs(root):
        if isinstance(graph, GraphProto):
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def sparse(root: GraphProto | FunctionProto) -> Iterator[SparseTensorProto]:
    """Every sparse tensor stored in a graph or function, as `tensors` finds the others.

    Example:
        >>> list(sparse(helper.make_graph([], "g", [], [])))
        []
    """
    for graph in _graphs(root):
        if isinstance(graph, GraphProto):
            yield from graph.sparse_initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor"):
                    yield attribute.sparse_tensor
                yield from attribute.sparse_tensors


def _graphs(root: GraphProto | FunctionProto) -> Iterator[GraphProto | FunctionProto]:
    """A graph, and the subgraphs in it."""
    waiting = [root]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def dtype_of(tensor: TensorProto) -> np.dtype[Any]:
    """NumPy's type for the tensor's elements (ml_dtypes' where NumPy has none; object for strings).

    Raises:
        InputError: The element type is undefined, or unknown to the installed onnx.

    Example:
        >>> dtype_of(TensorProto(data_type=TensorProto.BFLOAT16))
        dtype(bfloat16)
    """
    try:
        return helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        raise InputError(
            f"tensor {tensor.name!r}: element type {tensor.data_type} is unknown; upgrade onnx or re-export"
        ) from None


def nbytes(tensor: TensorProto) -> int:
    """Bytes that the tensor's dims ask for, as stored: 4-bit elements are packed two to a byte.

    Strings have no such size: their count is returned.

    Raises:
        InputError: A dimension is negative, the size is absurd, or the element type is unknown.

    Example:
        >>> nbytes(TensorProto(data_type=TensorProto.FLOAT, dims=[2, 3]))
        24
        >>> nbytes(TensorProto(data_type=TensorProto.INT4, dims=[3]))
        2
    """
    dims = list(tensor.dims)
    if any(size < 0 for size in dims):
        raise InputError(f"tensor {tensor.name!r}: dims {dims} hold a negative size; re-export the model")
    count = int(math.prod(dims))
    dtype = dtype_of(tensor)
    size = count if dtype.kind == "O" else (count * _PACKED_BITS.get(dtype.name, 8 * dtype.itemsize) + 7) // 8
    if size > _MOST_BYTES:
        raise InputError(f"tensor {tensor.name!r}: dims {dims} are impossibly large; re-export the model")
    return size


def packs(tensor: TensorProto) -> bool:
    """Whether elements share bytes as they are stored, so that they can't be written one run after the other.

    Example:
        >>> packs(TensorProto(data_type=TensorProto.INT4)), packs(TensorProto(data_type=TensorProto.INT8))
        (True, False)
    """
    return dtype_of(tensor).name in _PACKED_BITS


def check(tensor: TensorProto, folder: Path | None) -> None:
    """Require that the tensor's dims agree with the data it has, without reading external data.

    Args:
        tensor: The tensor.
        folder: Where external data are; None if the model has no folder.

    Raises:
        InputError: They disagree, or the external data are missing or outside the folder.

    Example:
        >>> check(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], raw_data=bytes(8)), None)
        Traceback (most recent call last):
        onnx_prune.errors.InputError: tensor 'w': dims [3] need 12 bytes, it has 8; re-export the model
    """
    if tensor.HasField("segment"):
        raise InputError(f"tensor {tensor.name!r} is in segments, which no runtime reads; re-export it")
    if lazy.is_put_off(tensor):
        return
    need = nbytes(tensor)
    if is_outside(tensor):
        _place(tensor, folder)
        return
    unit = "bytes"
    if tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
        have = len(tensor.raw_data)
    else:
        unit = "values"
        need = _field_length(tensor)
        have = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if have != need:
        raise InputError(
            f"tensor {tensor.name!r}: dims {list(tensor.dims)} need {need} {unit}, it has {have}; "
            "re-export the model"
        )


def read(tensor: TensorProto, folder: Path | None = None) -> NDArray[Any]:
    """The tensor's values, read-only where they are a view of the bytes or of the mapped file.

    Args:
        tensor: The tensor.
        folder: Where external data are; None if the model has no folder.

    Raises:
        InputError: As `check` does.

    Example:
        >>> read(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))
        array([1., 2.], dtype=float32)
    """
    check(tensor, folder)
    dtype, dims = dtype_of(tensor), tuple(tensor.dims)
    if dtype.kind == "O":
        return np.array([text.decode(errors=_LOSSLESS) for text in tensor.string_data], dtype=object).reshape(
            dims
        )
    if not is_outside(tensor) and not tensor.HasField("raw_data"):
        return numpy_helper.to_array(tensor)
    data = stored(tensor, folder)
    if dtype.name in _PACKED_BITS:
        packed = TensorProto(data_type=tensor.data_type, dims=dims, raw_data=data.tobytes())
        return numpy_helper.to_array(packed)
    return data.view(dtype.newbyteorder("<")).reshape(dims)


def stored(tensor: TensorProto, folder: Path | None = None) -> NDArray[np.uint8]:
    """The tensor's bytes as ONNX stores them: a view of `raw_data` or of the mapped file where it has one.

    Args:
        tensor: The tensor, not of strings.
        folder: Where external data are.

    Raises:
        InputError: The external data are missing, outside the folder, or of another size.

    Example:
        >>> stored(helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3])).tolist()
        [33, 3]
    """
    if lazy.is_put_off(tensor):
        return lazy.data(tensor)
    if is_outside(tensor):
        path, offset = _place(tensor, folder)
        size = nbytes(tensor)
        if size == 0:
            return np.zeros(0, np.uint8)
        try:
            return np.asarray(np.memmap(path, np.uint8, "r", offset, (size,)))
        except OSError as error:
            raise InputError(f"tensor {tensor.name!r}: cannot read {path}: {error.strerror}") from None
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, np.uint8)
    return payload(numpy_helper.to_array(tensor))


def payload(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes in which ONNX stores an array (not of strings); a view if the array is contiguous.

    Example:
        >>> payload(np.array([1, 258], np.int16)).tolist()
        [1, 0, 2, 1]
    """
    if array.dtype.name in _PACKED_BITS:
        return np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)
    if array.dtype.byteorder != "|":
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def fill(tensor: TensorProto, array: NDArray[Any]) -> None:
    """Give the tensor these values: dims and data change, everything else stays.

    Args:
        tensor: The tensor to change.
        array: Values of the tensor's own element type.

    Example:
        >>> tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, float_data=[1.0], dims=[1])
        >>> fill(tensor, np.array([[2, 3]], np.float32))
        >>> tensor.name, list(tensor.dims), read(tensor).tolist(), len(tensor.float_data)
        ('w', [1, 2], [[2.0, 3.0]], 0)
    """
    if array.dtype != dtype_of(tensor):
        raise TypeError(f"tensor {tensor.name!r} holds {dtype_of(tensor)}, not {array.dtype}")
    clear(tensor)
    tensor.dims[:] = array.shape
    if array.dtype.kind == "O":
        tensor.string_data.extend(text.encode(errors=_LOSSLESS) for text in array.reshape(-1))
    else:
        tensor.raw_data = payload(array).tobytes()


def clear(tensor: TensorProto) -> None:
    """Take away the tensor's data, wherever they are; name, type, dims and the rest stay.

    Example:
        >>> tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
        >>> clear(tensor)
        >>> tensor.name, list(tensor.dims), len(tensor.float_data)
        ('w', [1], 0)
    """
    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    if is_outside(tensor):
        tensor.ClearField("data_location")


def _field_length(tensor: TensorProto) -> int:
    """Entries that the typed field of a tensor with these dims holds."""
    count = int(math.prod(tensor.dims))
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    bits = _PACKED_BITS.get(dtype_of(tensor).name, 8)
    return -(-count * bits // 8) if bits in (2, 4) else count  # 6-bit elements: one to an entry


def _place(tensor: TensorProto, folder: Path | None) -> tuple[Path, int]:
    """File and offset of external data, once they are known to be inside the folder and of the right size."""
    where, home = f"tensor {tensor.name!r}", repr(str(folder))
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise InputError(f"{where}: its data are in {location!r}, beside a file; give the model's path")
    if tensor.data_type == TensorProto.STRING:
        raise InputError(f"{where}: strings cannot be external data; re-export the model")
    if not location or "\0" in location:
        raise InputError(f"{where}: its external data name no file; re-export the model")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or nbytes(tensor))
    except ValueError:
        raise InputError(f"{where}: offset and length of its external data must be numbers") from None
    inside = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(inside / location))
    parts = Path(location.replace("\\", "/")).parts
    if Path(location).is_absolute() or ".." in parts or not path.is_relative_to(inside):
        raise InputError(f"{where}: external data {location!r} lie outside {home}; copy the file into it")
    try:
        status = path.stat()
    except OSError:
        raise InputError(
            f"{where}: external data {location!r} are not in {home}; put the file there"
        ) from None
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.R_OK):
        raise InputError(f"{where}: external data {location!r} in {home} are not a readable file")
    if status.st_nlink > 1:
        raise InputError(
            f"{where}: external data {location!r} are a hard link and may be a file outside {home}; copy it"
        )
    need = nbytes(tensor)
    if length != need:
        raise InputError(
            f"{where}: dims {list(tensor.dims)} need {need} bytes, its external data say {length}; "
            "re-export the model"
        )
    if offset < 0 or offset + length > status.st_size:
        raise InputError(
            f"{where}: bytes {offset} to {offset + length} are not inside {location!r} "
            f"of {status.st_size} bytes; copy the file again"
        )
    return path, offset
