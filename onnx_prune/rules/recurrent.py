"""Recurrent layers: hidden channels are a group, with the gates as a held factor in front of them."""

from __future__ import annotations

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Op, Relation
from onnx_prune.rules import rule

# Activations that make zero of zero; Affine does too where its beta is 0, which nobody writes.
_ZERO_AT_ZERO = {"elu", "leakyrelu", "relu", "scaledtanh", "softsign", "tanh", "thresholdedrelu"}
_SEQUENCE_LENGTHS = 4
WHY = "a recurrent layer needs its directions, gates and steps whole"


def _recurrent(
    op: Op, text: str, batched: str, gates: int, defaults: tuple[str, ...], through: slice
) -> Relation:
    """The relation of a layer whose weights have one block of rows a gate.

    Every step sums over the hidden channels, with columns of R that masking makes zero: so cutting is
    exact whatever the activations are.  A masked channel of the results is zero if those activations
    that a zero has to pass are zero at zero; its pre-activations and its initial state are.

    Args:
        op: the node.
        text: the rule.
        batched: the rule where attribute `layout` puts the batch first.
        gates: blocks of rows in W and R.
        defaults: the activations of one direction.
        through: those of them that a zero has to pass.
    """
    settled = tuple(k for k in range(1, len(op.ins)) if k != _SEQUENCE_LENGTHS and op.has(k))
    chosen = [a.decode() if isinstance(a, bytes) else str(a) for a in op.attrs.get("activations", ())]
    chosen = chosen or list(defaults)
    directions = [chosen[j : j + len(defaults)] for j in range(0, len(chosen), len(defaults))]
    zero = all(name.lower() in _ZERO_AT_ZERO for names in directions for name in names[through])
    return pattern(
        op,
        batched if op.integer("layout") else text,
        zero=tuple((k,) for k in settled) if zero else NEVER,
        why=WHY,
        restate={"hidden_size": "h"},
        zeroed=settled,
        g=gates,
    )


@rule("LSTM")
def lstm(op: Op) -> Relation:
    """*s b i, *d (*g h) i, *d (*g h) h, *d (*e h), b, *d b h, *d b h, *d (*p h) -> *s *d b h, *d b h, *d b h

    The attribute hidden_size follows h.  A zero passes the cell's and the result's activations.

    >>> shapes = ((5, 2, 3), (1, 16, 3), (1, 16, 4), (1, 32), (2,))
    >>> print(lstm(Op("LSTM", shapes, ((5, 1, 2, 4), (1, 2, 4)), {"hidden_size": 4})))
    *s b i, *d (*g h) i, *d (*g h) h, *d (*e h), b -> *s *d b h, *d b h
    """
    weights = "*d (*g h) i, *d (*g h) h, *d (*e h), b"
    return _recurrent(
        op,
        f"*s b i, {weights}, d b h, d b h, d (*p h) -> s d b h, d b h, d b h",
        f"b *s i, {weights}, b d h, b d h, d (*p h) -> b s d h, b d h, b d h",
        4,
        ("Sigmoid", "Tanh", "Tanh"),
        slice(1, 3),
    )


@rule("GRU")
def gru(op: Op) -> Relation:
    """*s b i, *d (*g h) i, *d (*g h) h, *d (*e h), b, *d b h -> *s *d b h, *d b h

    The attribute hidden_size follows h.  A zero passes the activation of the hidden gate.

    >>> shapes = ((5, 2, 3), (2, 12, 3), (2, 12, 4), (2, 24), None, (2, 2, 4))
    >>> print(gru(Op("GRU", shapes, ((5, 2, 2, 4),), {"hidden_size": 4})))
    *s b i, *d (*g h) i, *d (*g h) h, *d (*e h), _, *d b h -> *s *d b h
    """
    return _one_state(op, 3, ("Sigmoid", "Tanh"), slice(1, 2))


@rule("RNN")
def rnn(op: Op) -> Relation:
    """*s b i, *d h i, *d h h, *d (*e h), b, *d b h -> *s *d b h, *d b h

    The attribute hidden_size follows h.  A zero passes the one activation.

    >>> print(rnn(Op("RNN", ((2, 5, 3), (1, 4, 3), (1, 4, 4)), ((2, 5, 1, 4),), {"layout": 1})))
    b *s i, *d h i, *d h h -> b *s *d h
    """
    return _one_state(op, 1, ("Tanh",), slice(0, 1))


def _one_state(op: Op, gates: int, defaults: tuple[str, ...], through: slice) -> Relation:
    weights = "*d (*g h) i, *d (*g h) h, *d (*e h), b"
    return _recurrent(
        op,
        f"*s b i, {weights}, d b h -> s d b h, d b h",
        f"b *s i, {weights}, b d h -> b s d h, b d h",
        gates,
        defaults,
        through,
    )
