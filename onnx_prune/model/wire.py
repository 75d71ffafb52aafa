"""Protobuf's wire format, as far as it is needed to replace tensors inside a serialized model.

A message is a row of fields: a tag (number and wire type), then the value; a nested message is a value with
its length in front. Working on these bytes keeps all else as it was, unknown fields too, and lets the data
of one tensor at a time pass through memory on their way to the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TrainingInfoProto,
)

RAW_DATA = int(TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number)
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)


@dataclass(frozen=True, slots=True)
class Late:
    """Bytes that are made when they are written, in pieces one after the other."""

    size: int
    make: Callable[[], Iterator[NDArray[np.uint8]]]


Piece = memoryview | bytes | Late
Change = Callable[[memoryview, bool], list[Piece] | None]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of message: the fields to look into, by number, and what they hold."""

    inside: dict[int, _Kind | None]  # None: a tensor
    main: bool = False  # its tensors are the main graph's initializers


def _kinds() -> _Kind:
    def number(message: type[Any], field: str) -> int:
        return int(message.DESCRIPTOR.fields_by_name[field].number)

    graph, main, attribute = _Kind({}), _Kind({}, main=True), _Kind({})
    node = _Kind({number(NodeProto, "attribute"): attribute})
    for kind in (graph, main):
        kind.inside[number(GraphProto, "node")] = node
        kind.inside[number(GraphProto, "initializer")] = None
    for field in ("t", "tensors"):
        attribute.inside[number(AttributeProto, field)] = None
    for field in ("g", "graphs"):
        attribute.inside[number(AttributeProto, field)] = graph
    training = _Kind({number(TrainingInfoProto, field): graph for field in ("initialization", "algorithm")})
    return _Kind(
        {
            number(ModelProto, "graph"): main,
            number(ModelProto, "functions"): _Kind({number(FunctionProto, "node"): node}),
            number(ModelProto, "training_info"): training,
        }
    )


_MODEL = _kinds()


def fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, where the tag starts, where the value starts, where it ends.

    Fields within an (unknown, deprecated) group have number 0.

    Raises:
        ValueError: The bytes are not a message.

    Example:
        >>> list(fields(memoryview(TensorProto(name="ab").SerializeToString())))
        [(8, 0, 2, 4)]
    """
    at, depth = 0, 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        kind, body = tag & 7, at
        if tag < 8:
            raise ValueError("no field has number 0")
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, body = _varint(message, at)
            at = body + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _GROUP:
            depth += 1
        elif kind == _GROUP_END and depth:
            depth -= 1
        else:
            raise ValueError(f"no wire type {kind}")
        if at > len(message):
            raise ValueError("a field is longer than its message")
        yield (0 if depth or kind == _GROUP_END else tag >> 3), start, body, at


def rewrite(message: memoryview, change: Change) -> list[Piece] | None:
    r"""A serialized ModelProto with some tensors replaced.

    Args:
        message: The model's bytes.
        change: Called with each tensor's bytes and whether it is an initializer of the main graph; returns
            the new tensor's pieces, or None to keep it.

    Returns:
        The pieces of the new model, or None if no tensor changed.

    Raises:
        ValueError: The bytes are not a message.

    Example:
        >>> model = ModelProto(graph=GraphProto(initializer=[TensorProto(name="w", dims=[1])]))
        >>> wire = memoryview(model.SerializeToString())
        >>> pieces = rewrite(wire, lambda tensor, main: [tensor, b"J\x01!"])
        >>> ModelProto.FromString(b"".join(pieces)).graph.initializer[0].raw_data
        b'!'
    """
    return _rewrite(message, _MODEL, change)


def without_initializers(
    message: memoryview, passed: Callable[[int], None] = lambda at: None
) -> tuple[bytes, list[tuple[int, int]]]:
    """A serialized ModelProto without its main graph's initializers, and where each of these stands.

    Args:
        message: The model's bytes.
        passed: Told how far these have been read, after each initializer.

    Raises:
        ValueError: The bytes are not a message.

    Example:
        >>> model = ModelProto(graph=GraphProto(name="g", initializer=[TensorProto(name="w")]))
        >>> rest, [(start, end)] = without_initializers(memoryview(model.SerializeToString()))
        >>> ModelProto.FromString(rest) == ModelProto(graph=GraphProto(name="g"))
        True
        >>> TensorProto.FromString(model.SerializeToString()[start:end]).name
        'w'
    """
    graph_number = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
    tensor_number = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
    pieces: list[Piece] = []
    found: list[tuple[int, int]] = []
    for number, start, body, end in fields(message):
        if number != graph_number:
            pieces.append(message[start:end])
            continue
        graph: list[Piece] = []
        for inner, tag, value, stop in fields(message[body:end]):
            if inner == tensor_number:
                found.append((body + value, body + stop))
                passed(body + stop)
            else:
                graph.append(bytes(message[body + tag : body + stop]))
        pieces += block(graph_number, graph)
    return b"".join(piece for piece in pieces if not isinstance(piece, Late)), found


def parted(tensor: memoryview) -> tuple[bytes, int, int] | None:
    r"""A serialized TensorProto without its raw data, and from where to where these are.

    Returns:
        None if it has none, or several of which only the last counts.

    Raises:
        ValueError: The bytes are not a message.

    Example:
        >>> parted(memoryview(TensorProto(name="w", raw_data=b"1234").SerializeToString()))
        (b'B\x01w', 5, 9)
    """
    rest, found = [], []
    for number, start, body, end in fields(tensor):
        if number == RAW_DATA:
            found.append((body, end))
        else:
            rest.append(tensor[start:end])
    return (b"".join(rest), *found[0]) if len(found) == 1 else None


def depth(message: memoryview) -> int:
    """How deep the graphs of a serialized model stand in each other, counted in messages.

    Raises:
        ValueError: The bytes are not a message.

    Example:
        >>> depth(memoryview(ModelProto(graph=GraphProto(node=[NodeProto(name="n")])).SerializeToString()))
        3
    """
    deepest, waiting = 0, [(message, _MODEL, 1)]
    while waiting:
        part, kind, level = waiting.pop()
        deepest = max(deepest, level)
        for number, _, body, end in fields(part):
            inner = kind.inside.get(number)
            if inner is not None:
                waiting.append((part[body:end], inner, level + 1))
    return deepest


def size(pieces: list[Piece]) -> int:
    """Bytes in a list of pieces.

    Example:
        >>> size([b"ab", Late(3, lambda: iter([np.zeros(3, np.uint8)]))])
        5
    """
    return sum(piece.size if isinstance(piece, Late) else len(piece) for piece in pieces)


def block(number: int, pieces: list[Piece]) -> list[Piece]:
    r"""A field of bytes, or a nested message, with this number.

    Example:
        >>> block(1, [b"abc"])
        [b'\n\x03', b'abc']
    """
    return [_encoded(number << 3 | _BYTES) + _encoded(size(pieces)), *pieces]


def locations(message: memoryview) -> set[str]:
    """Files of external data that a serialized model names; its weights are skipped, not read.

    Raises:
        ValueError: The bytes are not a message.

    Example:
        >>> locations(memoryview(b""))
        set()
    """
    found: set[str] = set()

    def note(tensor: memoryview, main: bool) -> None:
        kept = [tensor[start:end] for number, start, _, end in fields(tensor) if number in (13, 14)]
        if kept:
            proto = TensorProto.FromString(b"".join(kept))
            found.update(entry.value for entry in proto.external_data if entry.key == "location")

    _rewrite(message, _MODEL, note)
    return found


def _rewrite(message: memoryview, kind: _Kind, change: Change) -> list[Piece] | None:
    """Nested as deep as protobuf lets messages nest (100), so it may recurse."""
    pieces: list[Piece] = []
    copied = 0
    for number, start, body, end in fields(message):
        if number not in kind.inside:
            continue
        inner, part = kind.inside[number], message[body:end]
        new = change(part, kind.main) if inner is None else _rewrite(part, inner, change)
        if new is not None:
            pieces += [message[copied:start], *block(number, new)]
            copied = end
    return [*pieces, message[copied:]] if pieces else None


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number does not end")


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
