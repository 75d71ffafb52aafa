"""Models in and out: load one with its weights left where they are, save one whole or not at all."""

from __future__ import annotations

import itertools
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, ModelProto, StringStringEntryProto, TensorProto

from onnx_prune.errors import InputError
from onnx_prune.model import apart, dense, lazy, tensors, wire
from onnx_prune.model.atomic import Replacement, alone, replacing
from onnx_prune.model.pieces import Pieces
from onnx_prune.model.wellformed import check_calls, check_names, check_versions
from onnx_prune.signals import unstoppable

_RELEASE = 1 << 22  # bytes parsed between two times that the map's pages are given back
PROTOBUF_LIMIT = 2**31 - 1
_DEEPEST = 100  # messages in messages that protobuf reads
INLINE_BELOW = 1024


def load(path: str | os.PathLike[str]) -> ModelProto:
    """Read a model and require that it can be worked on; the data of all but small initializers stay outside.

    Args:
        path: The .onnx file. Its external data, if any, must lie in the same folder.

    Returns:
        The model, but for data that stay in the file (`onnx_prune.model.lazy`) not changed in any way.

    Raises:
        InputError: It cannot be used: one line with what, where and the way out.

    Example:
        >>> load("nowhere.onnx")
        Traceback (most recent call last):
        onnx_prune.errors.InputError: 'nowhere.onnx': no such file; check the path
    """
    file = Path(path)
    try:
        model = _parse(file)
        check_versions(model)
        for graph in _roots(model):
            for tensor in tensors.tensors(graph):
                tensors.check(tensor, file.parent)
            for sparse in tensors.sparse(graph):
                dense.check(sparse, file.parent)
        check_names(model)
        check_calls(model)
    except InputError as error:
        raise InputError(f"{str(file)!r}: {error}") from None
    return model


def _parse(file: Path) -> ModelProto:
    """Parse from a memory map, of which only what is not data is ever in memory."""
    model = ModelProto()
    try:
        if file.is_dir():
            raise InputError("is a directory; name the .onnx file in it")
        if file.exists() and not file.is_file():
            raise InputError("is not a regular file; save the model to one first")
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            size = status.st_size
            if size == 0:
                raise InputError("is empty; export or copy the model again")
            if size > PROTOBUF_LIMIT:
                raise InputError("is over 2 GB, which protobuf cannot read; export it with external data")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                if bytes(view[:8]) == b"version ":
                    raise InputError("is a Git LFS pointer, not the model; run git lfs pull")
                try:
                    _parse_piecewise(model, mapped, view, partial(lazy.put_off, file=file, status=status))
                except DecodeError:
                    if _depth(view) > _DEEPEST:
                        raise InputError(
                            f"subgraphs over {_DEEPEST} messages deep, more than protobuf reads; flatten"
                        ) from None
                    raise
    except FileNotFoundError:
        raise InputError("no such file; check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}; check its permissions") from None
    except DecodeError:
        raise InputError("not an ONNX model, or cut short; export or copy it again") from None
    return model


def _depth(view: memoryview) -> int:
    with suppress(ValueError):
        return wire.depth(view)
    return 0


def _parse_piecewise(
    model: ModelProto, mapped: mmap.mmap, view: memoryview, put_off: Callable[..., None]
) -> None:
    """Everything but the main graph's initializers, then the heads of these one by one."""
    parts = None
    with suppress(ValueError):  # a traceback that lived on would keep parts of the map open
        parts = wire.without_initializers(view, _Releaser(mapped))
    if parts is None:
        raise DecodeError("not a message")
    rest, initializers = parts
    model.ParseFromString(rest)
    release = _Releaser(mapped)
    for start, end in initializers:
        tensor = model.graph.initializer.add()
        with view[start:end] as part:
            head = None
            if end - start >= INLINE_BELOW:
                with suppress(ValueError):
                    head = wire.parted(part)
            if head is None:
                # the stubs know bytes alone, upb takes any buffer
                tensor.MergeFromString(part)  # type: ignore[arg-type]
            else:
                tensor.MergeFromString(head[0])
                size = head[2] - head[1]
                if tensors.may_wait(tensor, size):
                    put_off(tensor, offset=start + head[1], size=size)
                else:
                    tensor.raw_data = bytes(part[head[1] : head[2]])
        release(end)


class _Releaser:
    """Gives the pages of a map back once they have been read."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped, self._released = mapped, 0

    def __call__(self, end: int) -> None:
        """All up to `end` has been read."""
        page = end - end % mmap.PAGESIZE
        if page - self._released > _RELEASE and hasattr(self._mapped, "madvise"):
            self._mapped.madvise(mmap.MADV_DONTNEED, self._released, page - self._released)
            self._released = page


def _roots(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    yield model.graph
    yield from model.functions
    for training in model.training_info:
        yield training.initialization
        yield training.algorithm


def save(
    model: ModelProto,
    path: str | os.PathLike[str],
    *,
    content: Mapping[str, Callable[[], NDArray[Any]]] | None = None,
    source: str | os.PathLike[str] | None = None,
    external: Literal["auto", "always", "never"] = "auto",
    was_external: bool = False,
) -> int:
    """Write a model, whole or not at all; a target that is there already stays usable until the last step.

    The data file is called `<name>.data`, or `<name>-<8 hex digits>.data` if that name is taken: no file but
    the target is ever written over. A data file of such a name that only the old target used is then removed.
    Only models called `*.onnx*` in that folder are asked whether they use it too.

    Args:
        model: The finished structure; it is not changed. Tensors in `content` need dims, not data.
        path: Where to write. A symbolic link is followed; it may be the input file.
        content: For initializers of the main graph, by name, what computes their values. Called when written,
            one after the other; never kept. What is `Pieces` is never whole in memory.
        source: The folder in which the model's external data are.
        external: Whether data go to a file beside the model. "auto": if the input did so, or above 2 GB.
        was_external: The input used external data, though what is left of it may not.

    Returns:
        Bytes written, the data file's among them.

    Raises:
        Unwritable: The operating system refused; the old files are as they were.
        InputError: "never" was asked above 2 GB, or external data cannot be read.
        ValueError: `content` made an array that does not fit its tensor.

    Example:
        >>> import tempfile
        >>> from onnx import helper
        >>> weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
        >>> model = ModelProto(graph=helper.make_graph([], "g", [], [], [weight]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = save(model, f"{folder}/a.onnx", content={"w": lambda: np.ones(2, np.float32)})
        ...     with open(f"{folder}/a.onnx", "rb") as file:
        ...         written = file.read()
        >>> size == len(written), tensors.read(ModelProto.FromString(written).graph.initializer[0])
        (True, array([1., 1.], dtype=float32))
    """
    target = Path(os.path.realpath(path))
    folder = None if source is None else Path(source)
    with replacing(Path(path)) as new:
        writer = _Writer(model, content or {}, folder, new)
        pieces = writer.pieces(external=False)
        total = wire.size(pieces)
        if external == "never" and total > PROTOBUF_LIMIT:
            raise InputError(
                f"the model is over 2 GB ({total:,} bytes) and cannot be one file; allow external data"
            )
        used = was_external or any(map(tensors.is_external, _all_tensors(model)))
        if external == "always" or (external == "auto" and (used or total > PROTOBUF_LIMIT)):
            pieces = writer.pieces(external=True)
            writer.fill()
            total = wire.size(pieces)
            if total > PROTOBUF_LIMIT:
                raise InputError("over 2 GB are not raw data of initializers; make them so")
        new.finish(total, _chunks(pieces))
        with unstoppable(), alone(target.parent):
            before = _old_data(target)  # what another run put there since is removed too
            new.place()
            _remove_old_data(target, before, folder)
    return new.written


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        Unwritable: The operating system refused; an old file is as it was.
    """
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        Unwritable: The operating system refused; an old file is as it was.
    """
    with replacing(Path(path)) as new:
        new.finish(len(content), iter([content]))
        with unstoppable():
            new.place()


class _Writer:
    """Makes the pieces of the file, and puts data into the data file on the way if asked to."""

    def __init__(
        self,
        model: ModelProto,
        content: Mapping[str, Callable[[], NDArray[Any]]],
        folder: Path | None,
        new: Replacement,
    ) -> None:
        self._model, self._content, self._folder, self._new = model, content, folder, new
        self._wire, self._left_out = _serialize(model)
        self._jobs: list[tuple[apart.Job, Callable[[Any], None]]] = []  # each with who hears of it
        strangers = content.keys() - {tensor.name for tensor in model.graph.initializer}
        if strangers:
            raise ValueError(f"content for {sorted(strangers)}, which are no initializers")

    def pieces(self, external: bool) -> list[wire.Piece]:
        """The whole model; with `external`, after its data went to the data file."""
        initializers = iter(enumerate(self._model.graph.initializer))

        def change(serialized: memoryview, main: bool) -> list[wire.Piece] | None:
            index, tensor = next(initializers) if main else (-1, TensorProto.FromString(serialized))  # type: ignore[arg-type]  # the stubs know bytes alone
            computed = self._content.get(tensor.name) if main else None
            movable = external and main and tensor.data_type != TensorProto.STRING
            present = computed is None and not tensors.is_outside(tensor) and index not in self._left_out
            if present and (not movable or tensors.nbytes(tensor) < INLINE_BELOW):
                return None
            head = TensorProto.FromString(serialized)  # type: ignore[arg-type]  # the stubs know bytes alone
            tensors.clear(head)
            if computed is not None and tensor.data_type == TensorProto.STRING:
                tensors.fill(head, computed())
                return [head.SerializeToString()]
            data = wire.Late(tensors.nbytes(tensor), lambda: self._data(tensor, computed))
            if external and data.size >= INLINE_BELOW:
                if isinstance(computed, Pieces) and computed.told is not None and apart.allowed():
                    location, offset = self._new.reserve(data.size)
                    tell, hear = computed.told
                    job = apart.Job(lambda: self._new.fill(offset, data.make()), tell, data.size)
                    self._jobs.append((job, hear))
                else:
                    location, offset = self._new.add(data.size, data.make())
                head.data_location = TensorProto.EXTERNAL
                for key, value in (("location", location), ("offset", offset), ("length", data.size)):
                    head.external_data.append(StringStringEntryProto(key=key, value=str(value)))
                return [head.SerializeToString()]
            view = memoryview(head.SerializeToString())
            after = next(
                (start for number, start, _, _ in wire.fields(view) if number > wire.RAW_DATA), len(view)
            )
            return [view[:after], *wire.block(wire.RAW_DATA, [data]), view[after:]]

        whole = memoryview(self._wire)
        return wire.rewrite(whole, change) or [whole]

    def fill(self) -> None:
        """Write the data that room was left for."""
        for j, told in apart.shared([job for job, _ in self._jobs]):
            self._jobs[j][1](told)

    def _data(
        self, tensor: TensorProto, computed: Callable[[], NDArray[Any]] | None
    ) -> Iterator[NDArray[np.uint8]]:
        """The tensor's bytes."""
        size, need = 0, tensors.nbytes(tensor)
        for data in self._made(tensor, computed):
            size += data.size
            yield data
        if size != need:
            raise ValueError(f"tensor {tensor.name!r} has {size} bytes, its dims need {need}")

    def _made(
        self, tensor: TensorProto, computed: Callable[[], NDArray[Any]] | None
    ) -> Iterator[NDArray[np.uint8]]:
        if computed is None:
            yield tensors.stored(tensor, self._folder)
            return
        array = computed if isinstance(computed, Pieces) else computed()
        if array.shape != tuple(tensor.dims) or array.dtype != tensors.dtype_of(tensor):
            raise ValueError(f"content of {tensor.name!r} is {array.dtype} {array.shape}, not as declared")
        yield from map(tensors.payload, array.make() if isinstance(array, Pieces) else (array,))


def _serialize(model: ModelProto) -> tuple[bytes, set[int]]:
    """The model's bytes, and which initializers' data were left out of them.

    Protobuf takes twice the model's size to serialize it and refuses 2 GB, so large data are left out, unless
    there are fields unknown to onnx about, which only protobuf itself can carry over.
    """
    initializers = model.graph.initializer
    heavy = {
        index
        for index, tensor in enumerate(initializers)
        if tensor.HasField("raw_data")
        and not tensors.is_external(tensor)
        and tensors.nbytes(tensor) >= INLINE_BELOW
    }
    copied: list[Message] = [model, model.graph, *(initializers[index] for index in heavy)]
    if heavy and any(len(UnknownFieldSet(message)) for message in copied):
        heavy = set()
    light = model
    if heavy:
        light = ModelProto()
        tensors.copy_fields(model, light, skip=("graph",))
        tensors.copy_fields(model.graph, light.graph, skip=("initializer",))
        for index, tensor in enumerate(initializers):
            new = light.graph.initializer.add()
            if index in heavy:
                tensors.copy_fields(tensor, new, skip=("raw_data",))
            else:
                new.CopyFrom(tensor)
    try:
        return light.SerializeToString(), heavy
    except EncodeError:
        raise InputError("over 2 GB are not raw data of initializers; make them so") from None


def _all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    return itertools.chain.from_iterable(map(tensors.tensors, _roots(model)))


def _chunks(pieces: list[wire.Piece]) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if isinstance(piece, wire.Late):
            yield from (data.data for data in piece.make())
        else:
            yield piece


def _locations(file: Path) -> set[str]:
    """External data that a file uses; none if it is not a model."""
    with suppress(OSError, ValueError, RecursionError, DecodeError), open(file, "rb") as opened:
        # Closed when the last view of it goes: the traceback of an interruption may still hold some.
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return wire.locations(memoryview(mapped))
    return set()


def _old_data(target: Path) -> set[str]:
    """Data files named after the target that it uses; it is looked through only if there are any."""
    ours = re.compile(re.escape(target.name) + r"(-[0-9a-f]{8})?\.data")
    there = set(filter(ours.fullmatch, os.listdir(target.parent)))
    return there & _locations(target) if there else set()


def _remove_old_data(target: Path, old: set[str], source: Path | None) -> None:
    """Remove the old target's data files that no other model is known to use."""
    for name in old:
        file = target.parent / name
        inside = None if source is None else Path(os.path.realpath(source))
        if inside is not None and inside != target.parent and file.is_relative_to(inside):
            continue  # a model in a folder above might use it
        others = (other for other in target.parent.glob("*.onnx*") if other.suffix != ".data")
        if not any(name in _locations(other) for other in others):
            with suppress(OSError):
                file.unlink()
