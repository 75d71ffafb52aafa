"""The proof of a model that does not fit into memory: a block of its nodes at a time.

A block of the masked original is run on what the blocks before it computed, and the same block of the cut
model on what stays of that.  So each has to answer, up to rounding, what the other answers to the same
question, as between seams (`onnx_prune.proof.seams`); if all blocks do, so does the whole.  Only floats pass
from block to block: sizes are computed anew in each, since the two models differ in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from onnx_prune.calibration.taps import part
from onnx_prune.coupling import Coupling
from onnx_prune.errors import NotProved
from onnx_prune.kept import Plan
from onnx_prune.model.nodes import names_read
from onnx_prune.proof import seams
from onnx_prune.proof.compare import difference, exact, varies
from onnx_prune.proof.footprint import LIBRARIES, alive, bytes_of
from onnx_prune.proof.order import FLOATS
from onnx_prune.proof.prove import LIMIT, Gap, Proof, failed
from onnx_prune.proof.reference import Reference
from onnx_prune.runtime import RunError, Session, random_feeds


def prove_in_blocks(
    coupling: Coupling, plan: Plan, small: onnx.ModelProto, *, folder: Path | None = None, budget: int
) -> Proof:
    """Compare the cut model with the masked original, without ever running one of them whole.

    Args:
        coupling: the analysed original.
        plan: which channels of each group stay.
        small: the cut model; it is not changed.
        folder: where external data are.
        budget: bytes of memory that all of this may take; a block has one node at least.

    Returns:
        The proof.

    Raises:
        ProofFailed: a block of the cut model differs.
        NotProved: the model can't be taken apart, or nothing that it answers can be compared.
    """
    reference = Reference(coupling, plan, folder)
    if reference.random or coupling.graph.bodies or any(node.closed for node in coupling.graph.nodes):
        raise _kept_whole("it has bodies or draws random numbers")
    walk = _Walk(reference, small)
    nodes = coupling.graph.model.graph.node
    outputs = set(reference.watch.outputs)
    count = 0
    for first, end in _parts(coupling, budget - LIBRARIES - alive(coupling)):
        made = [name for node in nodes[first:end] for name in node.output if name]
        walk.block(made, outputs.union(names_read(nodes[end:])))
        count += 1
    return walk.proof(count)


def _parts(coupling: Coupling, most: int) -> Iterator[tuple[int, int]]:
    """Runs of nodes with no more bytes of weights than that, from where to where."""
    nodes = coupling.graph.model.graph.node
    first, held = 0, set[str]()
    for at, node in enumerate(nodes):
        read = {name for name in names_read([node]) if name in coupling.graph.initializers}
        if held and not read <= held and bytes_of(coupling, held | read) > most:
            yield first, at
            first, held = at, set()
        held |= read
    yield first, len(nodes)


class _Walk:
    """Both models, from their inputs to their outputs."""

    def __init__(self, reference: Reference, small: onnx.ModelProto) -> None:
        self.reference, self.small, self.masked = reference, small, reference.masked()
        coupling = reference.coupling
        shapes = [s for s in (coupling.shapes, coupling.probe) if s is not None]
        self.values: list[dict[str, Any]] = [
            random_feeds(coupling.graph.inputs, assigned.inputs) for assigned in shapes
        ]
        self.given = {value.name: value for value in coupling.graph.model.graph.input}
        self.there = {name for node in small.graph.node for name in node.output}
        self.gaps: dict[str, Gap] = {}
        self.said: set[str] = set()

    def block(self, made: Sequence[str], later: set[str]) -> None:
        """Run one block of both, on what was made so far, and keep what is read later."""
        crossing = [name for name in made if name in later and self._crosses(name)]
        watched = {name for name in self.reference.names() if name in made}
        names = [name for name in dict.fromkeys((*crossing, *made)) if name in watched or name in crossing]
        names = [name for name in names if name in self.there]
        if not names:
            return
        answers = list(self._answers(self.masked, names, self.values))
        wants = [self.reference.kept(names, answer) for answer in answers]
        kept = [
            dict(zip(v, self.reference.kept(list(v), list(v.values())), strict=True)) for v in self.values
        ]
        for got, want in zip(self._answers(self.small, names, kept), wants, strict=True):
            for name, a, b in zip(names, got, want, strict=True):
                gap = Gap(name, difference(a, b), 0.0 if exact(b) else LIMIT)
                self.gaps[name] = max(self.gaps.get(name, gap), gap, key=lambda g: g.error)
                if varies(b):
                    self.said.add(name)
        types = self.reference.coupling.shapes.types
        for name in names:
            if name in crossing:
                self.given[name] = helper.make_tensor_value_info(name, types[name], None)
        for values, answer in zip(self.values, answers, strict=True):
            values |= {name: value for name, value in zip(names, answer, strict=True) if name in crossing}
        for name in [name for name in self.given if name not in later and name in self.there]:
            del self.given[name]
            for values in self.values:
                del values[name]

    def proof(self, blocks: int) -> Proof:
        """What came of it.

        Raises:
            ProofFailed: a block differs.
            NotProved: it may be by a jump, or nothing could be compared.
        """
        watch = self.reference.watch
        silent = tuple(n for n in watch.outputs if n in watch.moving and n not in self.said)
        compared = tuple(name for name in watch.outputs if name in self.gaps and name not in silent)
        if not compared:
            raise NotProved("the outputs are empty, constant or not finite on the inputs tried")
        worst = max(self.gaps.values(), key=lambda gap: gap.rank)
        if not worst.fits:
            if watch.seams:
                raise _kept_whole("a rounding can become a jump in it")
            raise failed(
                "a block of the cut model differs from the masked original",
                f"{worst.name} by {worst.error:.1e} of its largest value; {worst.allowed:.0e} is allowed",
                self.reference.coupling,
            )
        return Proof(
            error=worst.error,
            tolerance=worst.allowed,
            outputs=compared,
            runs=len(self.values),
            inside=len(self.gaps) - len(compared),
            silent=silent,
            blocks=blocks,
        )

    def _crosses(self, name: str) -> bool:
        """Whether the value of a tensor is handed on: it must mean the same in both models."""
        coupling = self.reference.coupling
        known = name in coupling.shapes.known and name not in coupling.folded.names
        return known and coupling.shapes.types.get(name) in FLOATS

    def _answers(
        self, model: onnx.ModelProto, names: Sequence[str], values: Sequence[dict[str, Any]]
    ) -> Iterator[list[Any]]:
        """What the block of one model says to each set of values."""
        piece = part(model, self.given.values(), names)
        if self.reference.watch.half:
            seams.widened(piece, self.reference.folder)
            seams.settled(piece, self.reference.constants)
        try:
            session = Session(piece, self.reference.folder)
            for given in values:
                yield session.run(seams.single({name: given[name] for name in session.inputs}), names)
        except RunError as error:
            raise _kept_whole(f"one does not run by itself: {error}") from None


def _kept_whole(why: str) -> NotProved:
    return NotProved(f"the model does not fit into --max-memory, nor can it be proved in blocks: {why}")
