"""What the cut model has to answer: the masked original's answers to inputs that make it speak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.draft import Draft
from onnx_prune.errors import NotProved
from onnx_prune.kept import Plan, slicer, stays
from onnx_prune.mask import masked
from onnx_prune.model import tensors
from onnx_prune.proof import order, randomness, seams
from onnx_prune.proof.compare import differ, varies
from onnx_prune.runtime import Feeds, RunError, Session, missing_operators, random_feeds, saturates
from onnx_prune.shape.shapes import Shapes

Array = NDArray[Any]
_SCALES = (1.0, 0.1, 0.01, 10.0)  # noise weights can blow up deep networks; smaller inputs stay finite
_OTHER = 3  # a second seed
_SHAKEN = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
_NOISE = 2.0**-22  # a change of every weight in its last bits, to see what rounding can do


@dataclass(frozen=True, slots=True)
class Run:
    """One set of inputs with the masked original's answer.

    Attributes:
        feeds: the inputs as the masked original takes them.
        small_feeds: as the cut model takes them.
        want: what stays of each compared tensor.
    """

    feeds: Feeds
    small_feeds: Feeds
    want: list[Any]


@contextmanager
def _running() -> Iterator[None]:
    """What ran in half precision need not run in single; that is nobody's fault."""
    try:
        yield
    except RunError as error:
        raise NotProved(f"the masked original runs as it is, but not to be taken apart: {error}") from None


class Reference:
    """The masked original of one plan; it is made anew for every session, since it may be large.

    Where a method takes `at`, it is None for the models as they are, or the seams where they are parted.

    Args:
        coupling: the analysed original.
        plan: which channels of each group stay.
        folder: where external data are.

    Attributes:
        watch: what is compared.
        single: whether models that are run as they are run in single precision all the same, since
            onnxruntime has no kernels for their half precision.
    """

    def __init__(self, coupling: Coupling, plan: Plan, folder: Path | None) -> None:
        self.coupling, self.plan, self.folder = coupling, plan, folder
        self.watch = order.watch(coupling, plan)
        self.random = randomness.random_nodes(coupling.graph)
        self.single = False
        self._responding: set[str] = set()  # inside that differ from one input to another

    def names(self, at: seams.Seams = None) -> tuple[str, ...]:
        """The tensors that are compared."""
        return tuple(dict.fromkeys((*self.watch.outputs, *self.watch.inside, *(at or ()))))

    def runs(self, given: Sequence[Feeds] = ()) -> list[Run]:
        """The answers at every assignment of the dynamic axes, and to the given inputs.

        Raises:
            NotProved: onnxruntime can't run the original.
            RunError: it can, but not the masked original.
        """
        try:
            session = self._session(self.masked())
        except RunError as error:
            if self.watch.half and not self.single:
                self.single = True
                return self.runs(given)
            raise self._blame(error) from None
        assignments = [s for s in (self.coupling.shapes, self.coupling.probe) if s is not None]
        runs = [self._best(session, shapes) for shapes in assignments]
        for feeds in () if self.random else map(self._fed, given):
            try:
                answer = session.run(feeds, self.names())
            except RunError as error:
                raise self._blame(error, feeds) from None
            runs.append(Run(feeds, feeds, self.kept(self.names(), answer)))
        return runs

    def silent(self, runs: Sequence[Run]) -> tuple[str, ...]:
        """Outputs that the cut can change and that say nothing in any run."""
        said = {name for run in runs for name in self._speaking(run, self.watch.outputs)}
        return tuple(name for name in self.watch.outputs if name in self.watch.moving and name not in said)

    def seen_inside(self, runs: Sequence[Run]) -> bool:
        """Whether every sum over channels that are cut says something in some run: then no cut is unseen."""
        inside = [name for name in self.watch.inside if name in self.watch.moving]
        said = self._responding.union(*(self._speaking(run, inside) for run in runs))
        return bool(inside) and said.issuperset(inside)

    def parting(self, small: onnx.ModelProto) -> seams.Seams:
        """Where to part the models, at tensors that both have; None where nothing can jump."""
        if not (self.watch.seams or self.watch.half or (self._products and saturates())):
            return None
        made = {name for node in small.graph.node for name in node.output}
        return tuple(name for name in self.watch.seams if name in made)

    def parted(self, runs: Iterable[Run], at: tuple[str, ...]) -> Iterator[Run]:
        """The same runs with what the masked original has at its seams, one by one: that may be large."""
        with _running():
            session = self._session(self.masked(), at, opened=False)
        for run in runs:
            feeds = seams.single(run.feeds)
            with _running():
                answer = session.run(feeds, self.names(at))
            want = self.kept(self.names(at), answer)
            full, kept = (dict(zip(self.names(at), values, strict=True)) for values in (answer, want))
            small_feeds = seams.single(run.small_feeds)
            yield Run(feeds | {n: full[n] for n in at}, small_feeds | {n: kept[n] for n in at}, want)

    def answers(
        self, small: onnx.ModelProto, runs: Iterable[Run], at: seams.Seams = None
    ) -> Iterator[tuple[Run, list[Any]]]:
        """Each run with what the cut model says; that model is not changed.

        Raises:
            RunError: onnxruntime can't run it.
        """
        graph = self.coupling.graph
        nested = graph.bodies or any(node.closed for node in graph.nodes)
        if at is not None or self.single or self.random or nested:
            copy = onnx.ModelProto()
            copy.CopyFrom(small)
            session = self._session(copy, at)
        else:  # it may be large, and is only lent some outputs
            count = len(small.graph.output)
            try:
                session = self._session(small)
            finally:
                del small.graph.output[count:]
        names = [seams.own(name, at) for name in self.names(at)]
        for run in runs:
            yield run, session.run(run.small_feeds, names)

    def shaken(self, runs: Iterable[Run], at: seams.Seams) -> Iterator[tuple[Run, list[Any]]]:
        """Each run with what the masked original says once its weights are off by a rounding.

        Scales, thresholds and all else that operators read which jump stays as it is.
        """
        model = self.masked()
        rng = np.random.default_rng(0)
        nodes = (node for node in model.graph.node if not self.watch.jumping.isdisjoint(node.output))
        fixed = {name for node in nodes for name in node.input}
        for tensor in model.graph.initializer:
            if tensor.data_type in _SHAKEN and tensor.name not in fixed:
                array = tensors.read(tensor, self.folder)
                with np.errstate(over="ignore"):  # the largest floats there are stand in masks
                    moved = array * (1 + rng.choice([-_NOISE, _NOISE], array.shape)).astype(array.dtype)
                tensors.fill(tensor, np.where(np.isfinite(moved), moved, array))
        session = self._session(model, at)
        names = [seams.own(name, at) for name in self.names(at)]
        for run in runs:
            yield run, self.kept(self.names(at), session.run(run.feeds, names))

    def masked(self) -> onnx.ModelProto:
        """The masked original; its weights are made when they are read, while this is there."""
        return self._draft.lent()

    @cached_property
    def _draft(self) -> Draft:
        return masked(self.coupling, self.plan)

    def _session(self, model: onnx.ModelProto, at: seams.Seams = None, opened: bool = True) -> Session:
        """A session whose outputs are all that is compared; the model is used up."""
        randomness.pinned(model, self.random, self.coupling.shapes.types)
        if self.watch.half and (self.single or at is not None):
            seams.widened(model, self.folder)
            seams.settled(model, self.constants)
        if at is not None and self._products and saturates():
            seams.halved(model, self._products, self.folder)
        if at is not None and opened:
            seams.opened(model, {name: self.coupling.shapes.types[name] for name in at})
        have = {value.name for value in model.graph.output}
        names = (seams.own(name, at if opened else None) for name in self.names(at))
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
        return Session(model, self.folder)

    @cached_property
    def _products(self) -> dict[str, tuple[int, ...]]:
        """By a node's first result which of its operands are 8-bit factors with their zero points."""
        return {
            bound.node.outputs[0]: tuple(k for c in reads for k in (c.at, c.zero) if k is not None and k >= 0)
            for bound in self.coupling.bound
            if len(reads := bound.relation.reads) > 1
        }

    @cached_property
    def constants(self) -> dict[str, Array]:
        """What is computed of constants alone, whatever the dynamic axes."""
        first, *others = (
            self.coupling.folded.run(shapes.known)
            for shapes in (self.coupling.shapes, self.coupling.probe)
            if shapes is not None
        )
        same = (name for name in first if all(np.array_equal(first[name], other[name]) for other in others))
        return {name: first[name] for name in same if first[name].dtype.kind == "f"}

    def _best(self, session: Session, shapes: Shapes) -> Run:
        """The first inputs to which every output has a finite, varying answer, or the best."""
        best: tuple[int, int] | None = None
        found: Run | None = None
        failures: list[tuple[RunError, Feeds]] = []
        drawn = randomness.draws(self.random, shapes)
        before: dict[str, Any] = {}
        moving = [name for name in self.watch.outputs if name in self.watch.moving]
        for feeds in self._inputs(shapes):
            full = self._fed({**feeds, **drawn})
            try:
                answer = session.run(full, self.names())
            except RunError as failure:
                failures.append((failure, feeds))
                continue
            kept = self._fed({**feeds, **randomness.kept(drawn, self.coupling, self.plan)})
            run = Run(full, kept, self.kept(self.names(), answer))
            said = dict(zip(self.names(), answer, strict=True))
            self._responding.update(
                n for n in self.watch.inside if n in before and differ(said[n], before[n])
            )
            before = said
            rank = len(self._speaking(run, moving)), len(self._speaking(run, self.watch.inside))
            if best is None or rank > best:
                best, found = rank, run
            if rank[0] == len(moving):
                break
        if found is None:
            raise self._blame(*failures[0])
        return found

    def _inputs(self, shapes: Shapes) -> Iterator[dict[str, Array]]:
        inputs = self.coupling.graph.inputs
        for scale in _SCALES:
            yield random_feeds(inputs, shapes.inputs, 0, scale)
        yield random_feeds(inputs, shapes.inputs, _OTHER)
        for fill in (0, 1):  # where 0 or 1 at random makes no sense, all of one kind may
            yield random_feeds(inputs, shapes.inputs, fill=fill)

    def _fed(self, feeds: Feeds) -> Feeds:
        return seams.single(feeds) if self.single else feeds

    def kept(self, names: Sequence[str], answer: Sequence[Any]) -> list[Any]:
        """What stays of the masked original's tensors; sequences and maps have no axis that is cut."""
        return [
            slicer(stays(self.coupling, name, self.plan, value.shape))(value)
            if isinstance(value, np.ndarray)
            else value
            for name, value in zip(names, answer, strict=True)
        ]

    def _speaking(self, run: Run, names: Sequence[str]) -> list[str]:
        """The tensors that the cut can change and that have a finite answer which is not constant."""
        said = dict(zip(self.names(), run.want, strict=True))
        return [name for name in names if name in self.watch.moving and varies(said[name])]

    def _blame(self, error: RunError, feeds: Feeds | None = None) -> RunError | NotProved:
        """Whose fault it is that the masked model does not run: the original's, or masking's."""
        lacks = missing_operators(error)
        if lacks:
            return NotProved(f"onnxruntime lacks {', '.join(lacks)}")
        try:
            session = Session(self.coupling.graph.model, self.folder)
            if feeds is not None:
                session.run(feeds)
        except RunError as own:
            return NotProved(f"{own}")
        return error
