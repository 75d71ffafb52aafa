"""What an operator says about axes, as data: a `Relation`, mostly written as a line of text.

    n (g i) *d..., (g o) i *k..., (g o) -> n (g o) *e...

A letter in operands and results passes *through*; in operands only it is *contracted* (summed over,
so that removing a channel is the same as zeroing it); `*d` is *held*, it may not be cut; `~c` is
*mixed*, cutting it changes a statistic.  `(g i)` is a row-major product, `(a + b)` parts end to end,
`d...` any number of dims, `1` a dim of size one.  Sizes are solved from the shapes of the node, as
einops does.  The idea of a rule as data over shared factors is Shardy's `OpShardingRule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, Axis, atoms
from onnx_prune.errors import Misfit

Shape = tuple[int, ...]
Dims = tuple[Axis, ...]
Zero = tuple[tuple[int, ...], ...]
Form = Literal["sizes", "shape", "positions", "indices", "implied", "ones"]
CARRIED: Zero = ()
NEVER: Zero = ((),)
WHOLE = "the operator needs it whole"


@dataclass(frozen=True, slots=True)
class Restate:
    """An operand or attribute that repeats sizes or positions, and must follow the cut.

    One that the node leaves out is as if it said the sizes of `axes` (a held atom may stand for a
    number).  An operand whose own axes are cut is cut first, and never masked: it says where, not what.

    Attributes:
        target: operand index, or the name of an attribute.
        form: "sizes": entry j is the number of channels kept on `axes[j]`;
            "shape": the same as Reshape reads it, where 0 and -1 stay;
            "positions": entry j is a position on `axes[j]`, and becomes the number of kept
            channels before it; "indices": every entry is a position on `axes[0]` that stays, and
            becomes its rank among the kept; "implied": an attribute left out, which meant `value`,
            and has to say so once any of `axes` is cut; "ones": left out, it meant all dims of
            size one, and has to say the sizes of `axes` once a cut leaves another dim of that size.
        axes: one axis an entry; None leaves the entry alone.
        value: what an attribute that is left out meant before the cut.

    Raises:
        ValueError: there is no such form.
    """

    target: int | str
    form: Form
    axes: tuple[Axis | None, ...]
    value: float | None = None

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise ValueError(f"{self.form!r} is no form of Restate: one of {', '.join(get_args(Form))}")


@dataclass(frozen=True, slots=True)
class Code:
    """How the integers of an operand or a result stand for numbers: (q - zero point) * scale.

    The zero of such a tensor is its zero point: that is what masking fills in.  Scales and zero
    points are cut like any operand, but never masked: they say how to read, not what.

    Attributes:
        at: index of the operand or result.
        scale: the operand that holds the scales, None where the node does not know them.
        zero: the operand that holds the zero points (`~k` for result k), None for zero itself.
        axis: the dim, or dims, that the scales lie along; None where they broadcast as they stand.
        block: how many positions of that dim share a scale.
        bits: width of values packed into bytes along the last dim (MatMulNBits), else 0.  Bytes
            have no zero to fill in: masking acts on the scales.
        row: how many values of a row count where they are packed and lie in the order of what they are
            multiplied with, else 0; the last block may have room for more.
    """

    at: int
    scale: int | None
    zero: int | None
    axis: int | tuple[int, ...] | None = None
    block: int = 1
    bits: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class Relation:
    """The axes of a node's operands and results over the node's own atoms.

    Attributes:
        operands: an axis per dimension for each operand; None where the rule says nothing (such
            an operand is held).
        results: the same for the results.
        restate: operands and attributes that follow the cut.
        zero: when a masked channel of a result is zero: in every clause one of the named operands
            carries the channel and is zero there, or is left out.  No clause (`CARRIED`): every
            operand that carries the channel is zero there.  An empty clause (`NEVER`) can't be
            met: f(0) is not 0.
        divisors: operands that must not be zero: where they are, a result is infinite or undefined
            (0 / 0, log 0), and so is all that is multiplied with it.
        zeroed: operands that the node needs zero where they are masked, though the channels pass
            through: a range that includes zero is taken over them, or a recurrence sums over them.
        unread: operands of which the node takes the type and not the values: they are not summed over.
        reads: the operands that stand for numbers in integers.
        writes: the results that do.
    """

    operands: tuple[Dims | None, ...]
    results: tuple[Dims | None, ...]
    restate: tuple[Restate, ...] = ()
    zero: Zero = ()
    divisors: tuple[int, ...] = ()
    zeroed: tuple[int, ...] = ()
    unread: tuple[int, ...] = ()
    reads: tuple[Code, ...] = ()
    writes: tuple[Code, ...] = ()

    def __str__(self) -> str:
        def side(values: Sequence[Dims | None]) -> str:
            return ", ".join("_" if v is None else " ".join(map(str, v)) or "()" for v in values)

        return f"{side(self.operands)} -> {side(self.results)}"

    @property
    def unmasked(self) -> set[int]:
        """Operands that say where or how to read, not what: they are cut but never masked."""
        said: set[int | None] = {r.target for r in self.restate if isinstance(r.target, int)}
        said |= {code.zero for code in (*self.reads, *self.writes)}
        said |= {code.scale for code in (*self.reads, *self.writes) if not code.bits}
        return {k for k in said if k is not None and k >= 0}

    def contracted(self) -> set[Atom]:
        """Atoms that stand in operands that are read and not in results."""
        read = [dims for k, dims in enumerate(self.operands) if dims and k not in self.unread]
        inside = {a for dims in read for axis in dims for a in atoms(axis)}
        return inside - {a for dims in self.results if dims for axis in dims for a in atoms(axis)}


@dataclass(frozen=True)
class Op:
    """All that a rule may look at: one node with the shapes and the small constants around it.

    Attributes:
        type: operator type, "Conv".
        opset: version of the operator's domain that the model imports.
        ins: operand shapes, None for an operand left out.
        outs: result shapes, None for a result left out.
        attrs: attributes by name.
        values: operand values where they are small constants, else None.
        probe: the same node at the second assignment of the dynamic axes, for the rules that
            read structure from sizes; None when nothing is dynamic.
    """

    type: str
    ins: tuple[Shape | None, ...]
    outs: tuple[Shape | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[NDArray[Any] | None, ...] = ()
    opset: int = 21
    probe: Op | None = None

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attrs.get(name, default))

    def integers(self, name: str) -> list[int] | None:
        """A list-of-integers attribute, None where it is left out."""
        got = self.attrs.get(name)
        return None if got is None else [int(v) for v in got]

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        got = self.attrs.get(name, default)
        return got.decode() if isinstance(got, bytes) else str(got)

    def has(self, k: int) -> bool:
        """Whether operand `k` is there."""
        return k < len(self.ins) and self.ins[k] is not None

    def shape(self, k: int = 0) -> Shape:
        """Shape of operand `k`; raises Misfit when it is left out."""
        if not self.has(k):
            raise Misfit(f"{self.type} has no operand {k}")
        shape = self.ins[k]
        assert shape is not None
        return shape

    def out(self, k: int = 0) -> Shape:
        """Shape of result `k`; raises Misfit when it is left out."""
        shape = self.outs[k] if k < len(self.outs) else None
        if shape is None:
            raise Misfit(f"{self.type} has no result {k}")
        return shape

    def value(self, k: int) -> NDArray[Any] | None:
        """Operand `k`, where it is a known constant."""
        return self.values[k] if k < len(self.values) else None

    def const(self, k: int) -> list[int] | None:
        """Operand `k` as a flat list of integers, where it is a known constant."""
        value = self.value(k)
        return None if value is None else [int(v) for v in value.ravel()]

    def constant(self, name: str, k: int) -> list[int] | None:
        """Integers that were an attribute in old opsets and are operand `k` in new ones."""
        return self.integers(name) if name in self.attrs else self.const(k)


def positive(axis: int, rank: int) -> int:
    """A dimension counted from the front.

    >>> positive(-1, 4), positive(3, 4)
    (3, 3)

    Raises:
        Misfit: there is none such: onnx takes 2^32 for 0.
    """
    if not -rank <= axis < rank:
        raise Misfit(f"axis {axis} is none of {rank}")
    return axis + rank if axis < 0 else axis


def letters(shape: Shape, names: str = "abcdefghijklmnopqrstuvwxyz") -> tuple[Atom, ...]:
    """A fresh atom for each dimension.

    >>> print(*letters((2, 3, 4)))
    a b c
    """
    return tuple(Atom(n, names[j] if j < len(names) else f"x{j}") for j, n in enumerate(shape))


def hold(atom: Atom, why: str = WHOLE) -> Atom:
    """A fresh held atom of the same size and letter."""
    return replace(atom, held=why)


def mix(atom: Atom, why: str) -> Atom:
    """A fresh mixed atom of the same size and letter."""
    return replace(atom, mixed=why)
