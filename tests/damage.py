"""Real models with random damage, to the bytes and to the fields of the messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto

_INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    1000,
    2**20,
    2**31 - 1,
    -(2**31),
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))
_TEXTS = (
    *(
        "",
        "x",
        "If",
        "Loop",
        "Constant",
        "Shape",
        "Reshape",
        "ConstantOfShape",
        "com.microsoft",
        "ai.onnx.ml",
    ),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "\x1b[2J\x1b]0;gone\x07",
        "<script>alert(1)</script>",
        "a\nb\r\nc",
        "\0",
    ),
    *(
        "[red]no[/red]",
        "{0} %s",
        "\u202egnp",
        "é" * 300,
        "a" * 70_000,
        "axes",
        "then_branch",
        "perm",
        "location",
    ),
)


def damaged(rng: random.Random, models: Sequence[ModelProto]) -> bytes:
    """One of the models, damaged in one to four places."""
    model = ModelProto()
    model.CopyFrom(rng.choice(models))
    if rng.random() < 0.7:
        for _ in range(rng.randint(1, 4)):
            message, field = _place(rng, model)
            _change(rng, message, field, models)
    content = model.SerializeToString()
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 3)):
            content = rng.choice(_BYTES)(rng, content, models)
    return content


# Damage to fields


def _place(rng: random.Random, message: Message) -> tuple[Message, FieldDescriptor]:
    """A message somewhere inside and one of its fields, set or not."""
    while True:
        inner = [(f, v) for f, v in message.ListFields() if f.message_type is not None]
        if not inner or rng.random() < 0.15:
            there = [f for f, _ in message.ListFields()]
            fields = there if there and rng.random() < 0.8 else message.DESCRIPTOR.fields
            return message, rng.choice(list(fields))
        field, value = rng.choice(inner)
        message = rng.choice(value) if field.is_repeated else value


def _scalar(rng: random.Random, field: FieldDescriptor, old: Any) -> Any:
    """Another value of the field's type."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            size = len(old or b"")
            return rng.choice(
                [b"", (old or b"")[: size // 2], (old or b"") + b"\0" * 8, rng.randbytes(size % 4096)]
            )
        return rng.choice(_TEXTS)
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not old
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    number = rng.choice([*_INTEGERS, (old or 0) + 1, (old or 0) - 1, 2 * (old or 0), rng.randint(0, 30)])
    low, high = {
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    }.get(kind, (-(2**63), 2**63 - 1))
    return max(low, min(high, number))


def _change(
    rng: random.Random, message: Message, field: FieldDescriptor, models: Sequence[ModelProto]
) -> None:
    value = getattr(message, field.name)
    if field.is_repeated:
        _change_list(rng, value, field, models)
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is None:
        setattr(message, field.name, _scalar(rng, field, value))
    elif (other := _alike(rng, field, models)) is not None:
        value.CopyFrom(other)


def _change_list(
    rng: random.Random, value: Any, field: FieldDescriptor, models: Sequence[ModelProto]
) -> None:
    at = rng.randrange(len(value)) if value else 0
    action = rng.choice(["change", "change", "remove", "repeat", "swap", "many"])
    if field.message_type is not None:
        if action in ("change", "many"):
            other = _alike(rng, field, models)
            if other is not None:
                value.add().CopyFrom(other)
        elif action == "remove" and value:
            del value[at]
        elif action == "repeat" and value:
            value.add().CopyFrom(value[at])
        elif value:
            there = rng.randrange(len(value))
            copy = type(value[at])()
            copy.CopyFrom(value[at])
            value[at].CopyFrom(value[there])
            value[there].CopyFrom(copy)
    elif action == "remove" and value:
        del value[at]
    elif action in ("change", "swap") and value:
        value[at] = rng.choice(list(value)) if rng.random() < 0.3 else _scalar(rng, field, value[at])
    else:
        value.extend(_scalar(rng, field, None) for _ in range(9 if action == "many" else 1))


def _alike(rng: random.Random, field: FieldDescriptor, models: Sequence[ModelProto]) -> Message | None:
    """A message of the field's type from anywhere in any model, if some tries find one."""
    for _ in range(20):
        found, _ = _place(rng, rng.choice(models))
        if found.DESCRIPTOR is field.message_type:
            return found
    return None


# Damage to bytes


def _flip(rng: random.Random, content: bytes, models: Sequence[ModelProto]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if changed:
            # names, sizes and tags stand at both ends; weights, between them, tell little
            reach = min(len(changed), rng.choice([200, 4000, len(changed)]))
            at = rng.randrange(reach)
            changed[at if rng.random() < 0.5 else -1 - at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, content: bytes, models: Sequence[ModelProto]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _splice(rng: random.Random, content: bytes, models: Sequence[ModelProto]) -> bytes:
    other = rng.choice(models).SerializeToString()
    start, at = rng.randrange(len(other)), rng.randrange(len(content) + 1)
    piece = other[start : start + rng.choice([1, 16, 300, 5000])]
    return content[:at] + piece + content[at + rng.choice([0, len(piece)]) :]


def _retype(rng: random.Random, content: bytes, models: Sequence[ModelProto]) -> bytes:
    """Another number or wire type in the tag of a field, at any depth."""
    start, end = 0, len(content)
    while start < end:
        tags = _tags(content, start, end)
        if not tags:
            break
        tag, body, stop, nested = rng.choice(tags)
        if nested and rng.random() < 0.8:
            start, end = body, stop
            continue
        changed = bytearray(content)
        number, kind = content[tag] >> 3 & 15, content[tag] & 7
        if rng.random() < 0.5:
            kind = rng.randrange(8)
        else:
            number = rng.randint(0, 15)
        changed[tag] = (content[tag] & 128) | number << 3 | kind
        return bytes(changed)
    return content


def _tags(content: bytes, start: int, end: int) -> list[tuple[int, int, int, bool]]:
    """Where each field's tag and value stand, and whether the value may be a message."""
    found = []
    at = start
    while at < end:
        tag = at
        number, at = _varint(content, at)
        kind, body = number & 7, at
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            size, body = _varint(content, at)
            at = body + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            break
        if at > end:
            break
        found.append((tag, body, at, kind == 2 and at - body > 2))
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content):
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at


_BYTES: tuple[Callable[[random.Random, bytes, Sequence[ModelProto]], bytes], ...] = (
    *(_flip, _flip, _truncate, _splice, _retype, _retype),
)
