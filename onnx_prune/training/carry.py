"""Carry a plan or a mask over from the exported model to the parameters that it was exported from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import plan as planfile
from onnx_prune.errors import InputError
from onnx_prune.plan import Plan
from onnx_prune.sparse import maskfile
from onnx_prune.sparse.maskfile import MaskFile
from onnx_prune.stages import load
from onnx_prune.training.matching import Matching, match
from onnx_prune.training.norms import norms
from onnx_prune.training.pieces import Keep, gathered, spread
from onnx_prune.training.stored import Copy, Stored, named, stored
from onnx_prune.words import plain

Array = NDArray[Any]
Source = str | Path | onnx.ModelProto
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Report:
    """How parameters were found.

    Attributes:
        matched: by parameter, the tensors that hold it and how: "name", "values", "transposed", "reordered",
            "part", "folded", "computed", "name, other values" or "end of name"; or the kernel that it
            "follows".
        unmatched: parameters that were not found; they stay as they are.
        missing: tensors that the plan cuts or the mask zeroes and that hold none of the parameters,
            but for those that are one number throughout.
    """

    matched: Mapping[str, tuple[tuple[str, str], ...]]
    unmatched: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            f"{plain(name)}: " + ", ".join(f"{plain(tensor)} ({how})" for tensor, how in found)
            for name, found in self.matched.items()
        ]
        rows += [f"{plain(name)}: not found, stays as it is" for name in self.unmatched]
        rows += [f"{plain(name)}: of the exported model, holds no parameter" for name in self.missing]
        return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class Cuts:
    """A plan in terms of a module.

    Attributes:
        keep: by parameter, what stays along each dim that is cut.
        masks: the same as booleans in the parameter's shape.
        report: how the parameters were found.
    """

    keep: Mapping[str, Mapping[int, NDArray[np.intp]]]
    masks: Mapping[str, NDArray[np.bool_]]
    report: Report

    def of(self, name: str, array: Array) -> Array:
        """A parameter without what the plan removes."""
        for dim, kept in self.keep.get(name, {}).items():
            array = array.take(kept, dim)
        return array


@dataclass(frozen=True, slots=True)
class Masks:
    """A mask in terms of a module.

    Attributes:
        keep: by parameter, which elements stay, for those of which any goes.
        report: how the parameters were found.
    """

    keep: Mapping[str, NDArray[np.bool_]]
    report: Report


def cuts(
    parameters: Mapping[str, Array],
    plan: str | Path | Plan,
    model: Source | None = None,
    *,
    strict: bool = True,
) -> Cuts:
    """What a plan removes from each parameter.

    Args:
        parameters: of the module by name, in its order, with its buffers.
        plan: made of an export of this module.
        model: that export, before it was pruned. Without it parameters are known by their names alone.
        strict: raise if a tensor that is cut holds no parameter, or a normalization is nowhere to be found.

    Raises:
        InputError: the plan or the model is not usable, or they do not belong to these parameters.
    """
    plan = planfile.read(Path(plan)) if isinstance(plan, str | Path) else plan
    keep, copies = _read(plan)
    rows = {name: tuple(row["shape"]) for name, row in plan.initializers.items()}
    asked = {n: s for n, s in rows.items() if not plan.initializers[n].get("computed")}
    tensors = named(rows) if model is None else stored(load(model)[0], asked, copies)

    def cut_of(name: str) -> tuple[tuple[int, bytes], ...]:
        return tuple((j, kept.tobytes()) for j, kept in keep.get(name, {}).items())

    found = match(parameters, tensors, cut_of)
    report = _reported(parameters, found, tensors, [name for name in keep if keep[name]])
    computed = [name for name in report.missing if plan.initializers[name].get("computed")]
    if strict and computed:
        raise InputError(
            f"the plan cuts {_list(computed)}, which the model computes from its weights (by weight "
            "normalization, say); remove that from the module, export and prune it anew, or pass strict=False"
        )
    if strict:
        _require(parameters, report, "the plan cuts", model is not None)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    made: dict[str, dict[int, NDArray[np.intp]]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, pieces in found.pieces.items():
        if any(keep.get(piece.tensor) for piece in pieces):
            mask = np.ones(parameters[name].shape, np.bool_)
            for piece in pieces:
                piece.brought(spread(keep.get(piece.tensor, {}), shapes[piece.tensor]), mask)
            gone = gathered(mask)
            if gone is None:
                raise InputError(
                    f"what the plan keeps of {plain(pieces[0].tensor)!r} is no cut of the parameter "
                    f"{plain(name)!r} along its dims {list(mask.shape)}; leave it whole with --ignore"
                )
            if gone:
                made[name], masks[name] = gone, mask
    for name, (kernel, dims) in found.follows.items():
        cut = {k: made[kernel][dim] for k, dim in enumerate(dims) if dim in made.get(kernel, {})}
        if cut:
            made[name], masks[name] = cut, spread(cut, parameters[name].shape)
    return Cuts(made, masks, report)


def masks(
    parameters: Mapping[str, Array],
    mask: str | Path | MaskFile,
    model: Source | None = None,
    *,
    strict: bool = True,
) -> Masks:
    """Which elements of each parameter a mask keeps.

    Args:
        parameters: of the module by name, in its order, with its buffers.
        mask: made of an export of this module.
        model: that export, dense. Without it parameters are known by their names alone.
        strict: raise if a tensor that the mask zeroes holds no parameter.

    Raises:
        InputError: the mask or the model is not usable, or they do not belong to these parameters.
    """
    mask = maskfile.read(mask) if isinstance(mask, str | Path) else mask
    rows = {name: bits.shape for name, bits in mask.bits.items()}
    tensors = named(rows) if model is None else stored(load(model)[0], rows)
    bits = mask.bits

    def cut_of(name: str) -> bytes:
        return bits[name].packed.tobytes() if name in bits else b""

    found = match(parameters, tensors, cut_of)
    zeroed = [name for name, b in bits.items() if b.kept < np.prod(b.shape, dtype=np.int64)]
    report = _reported(parameters, found, tensors, zeroed)
    if strict and report.missing:
        _require({}, report, "the mask zeroes", model is not None)
    made = {}
    for name, pieces in found.pieces.items():
        moved = [piece for piece in pieces if piece.move is not None and piece.tensor in bits]
        if moved:
            keep = np.ones(parameters[name].shape, np.bool_)
            for piece in moved:
                piece.brought(bits[piece.tensor].keep(), keep)
            if not keep.all():
                made[name] = keep
    return Masks(made, report)


def _read(plan: Plan) -> tuple[dict[str, Keep], dict[str, Copy]]:
    """What a plan keeps of each tensor, and the private copies that it makes.

    Raises:
        InputError: it keeps what is not there, in another order or basis, or does not say who reads a copy.
    """
    if turned := planfile.turned(plan):
        raise InputError(f"the plan changes the basis of {_list(turned)}; prune with --criterion wanda")
    keep: dict[str, Keep] = {}
    copies: dict[str, Copy] = {}
    for name, row in plan.initializers.items():
        sizes = dict(enumerate(row["shape"]))
        keep[name] = {int(j): np.asarray(kept, np.intp) for j, kept in row["keep"].items()}
        for j, kept in keep[name].items():
            if not kept.size or kept.min() < 0 or kept.max() >= sizes.get(j, 0):
                raise InputError(f"the plan keeps what {plain(name)!r} of shape {row['shape']} does not have")
            if np.any(np.diff(kept) < 0):  # a mask knows no order
                raise InputError(
                    f"the plan changes the order of the channels of {plain(name)!r}, as behind a channel "
                    "shuffle, which a module can't follow; leave them whole with --ignore"
                )
        if "copy_of" in row:
            try:
                copies[name] = (str(row["copy_of"]), [(str(node), int(k)) for node, k in row["users"]])
            except (KeyError, TypeError, ValueError):
                raise InputError(f"the plan does not say what reads the copy {plain(name)!r}") from None
    return keep, copies


def _reported(
    parameters: Mapping[str, Array], found: Matching, tensors: list[Stored], touched: list[str]
) -> Report:
    matched = {
        name: tuple((piece.tensor, piece.how) for piece in found.pieces[name])
        for name in parameters
        if name in found.pieces
    } | {name: ((kernel, "follows"),) for name, (kernel, _) in found.follows.items()}
    unmatched = tuple(name for name, a in parameters.items() if name not in matched and a.dtype.kind == "f")
    # A recurrent layer's first state, or the ones of a norm without scale: the exporter's own.
    fills = {t.name for t in tensors if t.values is not None and (t.values == t.values.flat[:1]).all()}
    missing = tuple(name for name in touched if name not in found.claimed and name not in fills)
    return Report(matched, unmatched, missing)


def _require(parameters: Mapping[str, Array], report: Report, does: str, by_values: bool) -> None:
    way_out = (
        "export the module as it is now, and prune that"
        if by_values
        else "give the exported model too, so that values can be compared"
    )
    if report.missing:
        raise InputError(
            f"{does} {_list(report.missing)}, which {'holds' if len(report.missing) == 1 else 'hold'} "
            f"none of the module's parameters; {way_out}, or pass strict=False to leave it at that"
        )
    lost = [norm.names[0] for norm in norms(parameters) if set(norm.names) & set(report.unmatched)]
    if lost and by_values:
        raise InputError(
            f"normalization {_list(lost)} is not in the exported model, neither as it is nor folded into a "
            f"layer; {way_out}, or pass strict=False to leave it whole"
        )


def _list(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(repr(plain(name)) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
