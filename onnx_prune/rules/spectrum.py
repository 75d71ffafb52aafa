"""Fourier transforms: linear along one axis, which is held with the pair of numbers; the others pass."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import Op, Relation, hold, letters, positive
from onnx_prune.rules import rule

FREQUENCIES = "a frequency is made of all positions"


@rule("DFT")
def dft(op: Op) -> Relation:
    """a... *c b... *two, _, _ -> a... *f b... *two

    >>> print(dft(Op("DFT", ((2, 6, 8, 1),), ((2, 6, 5, 2),), {"axis": 2, "onesided": 1}, opset=17)))
    a b *c *d -> a b *c1 *d1
    """
    shape, out = op.shape(), op.out()
    rank = len(shape)
    given = op.const(2)
    said = op.integer("axis", 1) if op.opset < 20 else given[0] if given else -2
    unknown = op.has(2) and given is None
    apart = {rank - 1, *(range(rank) if unknown else (positive(said, rank),))}
    x = tuple(hold(a, FREQUENCIES) if j in apart else a for j, a in enumerate(letters(shape)))
    y = tuple(Atom(n, f"{a.name}1", FREQUENCIES) if a.held else a for a, n in zip(x, out, strict=True))
    return Relation((x,) + (None,) * (len(op.ins) - 1), (y,))


@rule("STFT")
def stft(op: Op) -> Relation:
    """n *c..., *s..., *w, *l... -> n *f *e *two

    >>> print(stft(Op("STFT", ((2, 64, 1), (), (16,)), ((2, 7, 9, 2),))))
    n *c0 *c1, (), *w -> n *f *e *two
    """
    return pattern(op, "n *c..., *s..., *w, *l... -> n *f *e *two", zero=((0,),), why=FREQUENCIES)
