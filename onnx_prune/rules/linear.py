"""Matrix products: the inner axis is contracted, the others pass through."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.relation import Dims, Op, Relation, Shape, letters
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.elementwise import align

DOTS = "..."


@rule("Gemm")
def gemm(op: Op) -> Relation:
    """m k, k n, n -> m n

    >>> print(gemm(Op("Gemm", ((2, 3), (4, 3), (4,)), ((2, 4),), {"transB": 1})))
    m k, n k, n -> m n
    >>> print(gemm(Op("Gemm", ((2, 3), (3, 4), (2, 1)), ((2, 4),))))
    m k, k n, m 1 -> m n
    """
    m, n = letters(op.out(), "mn")
    left, right = op.shape(0), op.shape(1)
    k = _inner(left[0 if op.integer("transA") else 1], right[1 if op.integer("transB") else 0])
    a = (k, m) if op.integer("transA") else (m, k)
    b = (n, k) if op.integer("transB") else (k, n)
    rest = tuple(align(op.shape(2), (m, n)) if op.has(2) else None for _ in op.ins[2:])
    return Relation((a, b, *rest), ((m, n),), zero=((0, 1), (2,)))


@rule("MatMul")
def matmul(op: Op) -> Relation:
    """... m k, ... k n -> ... m n

    >>> print(matmul(Op("MatMul", ((5, 1, 2, 3), (6, 3, 4)), ((5, 6, 2, 4),))))
    a 1 m k, b k n -> a b m n
    >>> print(matmul(Op("MatMul", ((3,), (3, 4)), ((4,),))))
    k, k n -> n
    """
    left, right = op.shape(0), op.shape(1)
    k = _inner(left[-1], right[-2:][0])
    m = letters(left[-2:-1], "m")
    n = letters(right[-1:], "n") if len(right) > 1 else ()
    batch = letters(op.out()[: len(op.out()) - len(m) - len(n)])
    operands = (*align(left[:-2], batch), *m, k), (*align(right[:-2], batch), k, *n)
    return Relation(operands, ((*batch, *m, *n),), zero=((0, 1),))


def _inner(left: int, right: int) -> Atom:
    """The axis that is summed over."""
    if left != right:
        raise Misfit(f"inner axes of sizes {left} and {right} do not fit")
    return Atom(left, "k")


@rule("Einsum")
def einsum(op: Op) -> Relation:
    """as the equation says; letters that stand twice in one operand are held

    >>> print(einsum(Op("Einsum", ((2, 3), (4, 3)), ((2, 4),), {"equation": "bi, oi -> bo"})))
    b i, o i -> b o
    >>> print(einsum(Op("Einsum", ((5, 2, 2),), ((5,),), {"equation": "...II -> ..."})))
    x0 *I *I -> x0
    """
    inputs, result = _terms(op.text("equation"))
    if len(inputs) != len(op.ins):
        raise Misfit(f"the equation has {len(inputs)} operands, the node {len(op.ins)}")
    shapes = [op.shape(k) for k in range(len(op.ins))]
    dotted = max(
        (len(shape) - len(term) + 1 for term, shape in zip(inputs, shapes, strict=True) if DOTS in term),
        default=0,
    )
    spread = [_spread(term, len(shape)) for term, shape in zip(inputs, shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(spread, shapes, strict=True):
        for name, n in zip(term, shape, strict=True):
            sizes[name] = n if sizes.get(name, 1) == 1 else sizes[name]
    twice = {name for term in spread for name in term if term.count(name) > 1}
    why = "it stands twice in one operand of Einsum"
    made = {name: Atom(n, _shown(name, dotted), why if name in twice else None) for name, n in sizes.items()}

    def dims(term: list[str], shape: Shape) -> Dims:
        return tuple(
            made[name] if made[name].size == n else Atom(1, "1") for name, n in zip(term, shape, strict=True)
        )

    operands = tuple(map(dims, spread, shapes))
    outcome = dims(_spread(result, len(op.out())), op.out())
    return Relation(operands, (outcome,), zero=(tuple(range(len(shapes))),))


def _terms(equation: str) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result; "..." is one letter."""
    left, arrow, right = "".join(equation.split()).partition("->")
    inputs = [_term(text) for text in left.split(",")]
    if arrow:
        return inputs, _term(right)
    # Left out, the result has the letters that stand once, in alphabetical order, after the dots.
    flat = [name for term in inputs for name in term]
    once = sorted(name for name in set(flat) - {DOTS} if flat.count(name) == 1)
    return inputs, [DOTS, *once] if DOTS in flat else once


def _term(text: str) -> list[str]:
    before, dots, after = text.partition(DOTS)
    return [*before, *([DOTS] if dots else []), *after]


def _spread(term: list[str], rank: int) -> list[str]:
    """Write the dots out as numbers counted from the right, where they align."""
    at = term.index(DOTS) if DOTS in term else len(term)
    hidden = rank - (len(term) - 1) if DOTS in term else 0
    names = [*term[:at], *(str(j) for j in reversed(range(hidden))), *term[at + 1 :]]
    if len(names) != rank:
        raise Misfit(f"a tensor of rank {rank} does not fit the term {''.join(term)!r}")
    return names


def _shown(name: str, dotted: int) -> str:
    return f"x{dotted - 1 - int(name)}" if name.isdigit() else name
