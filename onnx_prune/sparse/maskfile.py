"""The mask file: which weights stay, as a contract for whoever trains the model.

An .npz with one array a tensor under its name (see `onnx_prune.sparse.bits`), and under `manifest` a text in
JSON that says what they are for.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod as product
from pathlib import Path

import numpy as np

from onnx_prune.errors import InputError
from onnx_prune.model import files
from onnx_prune.sparse.bits import Bits
from onnx_prune.words import plain

FORMAT, VERSION, KEY = "onnx-prune-mask", 1, "manifest"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a mask is for and where it comes from.

    Attributes:
        model_sha256: of the dense model's main file, "" for a model in memory.
        pattern: what went together.
        criterion: what made a weight matter.
        ratio: the fraction asked to be zero.
        round: 0 for a mask made in one go, else the round of a schedule, from 1.
        schedule: the name of the schedule, "one-shot" where there is none.
        parent_sha256: of the mask file of the round before, "" where there is none.
    """

    model_sha256: str
    pattern: str
    criterion: str
    ratio: float
    round: int = 0
    schedule: str = "one-shot"
    parent_sha256: str = ""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask of a model.

    Attributes:
        manifest: what it is for.
        bits: the mask of each tensor, by name.
        sha256: of the file that it was read from.
    """

    manifest: Manifest
    bits: Mapping[str, Bits] = field(default_factory=dict)
    sha256: str = ""


def to_bytes(mask: MaskFile) -> bytes:
    """The file's bytes, the same for the same mask.

    Raises:
        InputError: a tensor has the name of the manifest.
    """
    if KEY in mask.bits:
        raise InputError(f"a tensor is called {KEY!r}, as the manifest of a mask file is; rename it first")
    rows = {name: {"shape": list(bits.shape), "kept": bits.kept} for name, bits in sorted(mask.bits.items())}
    document = {"format": FORMAT, "version": VERSION} | asdict(mask.manifest) | {"initializers": rows}
    arrays = {KEY: np.array(json.dumps(document))}
    arrays |= {name: bits.packed for name, bits in sorted(mask.bits.items())}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:  # numpy.savez takes no array called "file"
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as opened:
                np.lib.format.write_array(opened, array, allow_pickle=False)
    return file.getvalue()


def write(mask: MaskFile, path: str | Path) -> str:
    """Write a mask, whole or not at all.

    Returns:
        The file's sha256.

    Raises:
        Unwritable: the operating system refused.
    """
    content = to_bytes(mask)
    files.write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read(path: str | Path) -> MaskFile:
    """Read a mask file and require that it is whole.

    Raises:
        InputError: it is not usable: one line with what and where.
    """
    shown = repr(str(path))
    try:
        content = Path(path).read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except OSError as error:
        raise InputError(f"{shown}: cannot be read: {error.strerror or error}; check the path") from None
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{shown}: not a mask file; write one with --save-mask") from None
    try:
        document = json.loads(str(arrays.pop(KEY)))
        if document["format"] != FORMAT:
            raise InputError(f"{shown}: not a mask file; write one with --save-mask")
        if document["version"] != VERSION:
            raise InputError(
                f"{shown}: mask format {document['version']} is not {VERSION}, the one known here"
            )
        manifest = Manifest(**{name: document[name] for name in Manifest.__dataclass_fields__})
        rows = {name: tuple(map(int, row["shape"])) for name, row in document["initializers"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{shown}: its manifest is not that of a mask; write one with --save-mask") from None
    bits = {}
    for name, shape in rows.items():
        packed = arrays.get(name)
        if packed is None or packed.dtype != np.uint8 or packed.shape != (-(-product(shape) // 8),):
            raise InputError(f"{shown}: the mask of {plain(name)!r} is missing, or not as its shape says")
        bits[name] = Bits(packed, shape)
    return MaskFile(manifest, bits, hashlib.sha256(content).hexdigest())


def require_monotone(after: Mapping[str, Bits], before: MaskFile, where: str) -> None:
    """Require that what an earlier mask removed stays removed.

    Raises:
        InputError: a tensor is missing, has another shape, or gets a weight back.
    """
    for name, bits in before.bits.items():
        found = after.get(name)
        if found is None:
            if bits.kept < product(bits.shape):
                raise InputError(f"{where}: {plain(name)!r} was pruned before and takes no part now")
            continue
        if found.shape != bits.shape:
            raise InputError(
                f"{where}: {plain(name)!r} has shape {list(found.shape)}, had {list(bits.shape)} before"
            )
        if not found.within(bits):
            count = int(np.bitwise_count(found.packed & ~bits.packed).sum())
            raise InputError(
                f"{where}: {count} weights of {plain(name)!r} that an earlier round removed would come "
                "back; ask for no less than it did"
            )
