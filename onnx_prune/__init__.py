"""Prune ONNX models: rank channels, remove them for real, prove the cut equal to the mask.

>>> import onnx_prune
>>> result = onnx_prune.prune("models/digits.onnx", ratio=0.5)     # doctest: +SKIP
>>> result.report.after.params / result.report.before.params      # doctest: +SKIP
0.27
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnx_prune.errors import (
    InputError,
    NothingToPrune,
    NotProved,
    ProofFailed,
    PruneError,
    Unwritable,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import onnx
    from numpy.typing import NDArray

    from onnx_prune.comparison.compare import Compared
    from onnx_prune.coupling import Coupling
    from onnx_prune.curves.sensitivity import Sensitivity
    from onnx_prune.explanation.explain import Explanation
    from onnx_prune.pipeline import Result
    from onnx_prune.sparse.sparsify import SparseResult

__all__ = [
    "InputError",
    "NotProved",
    "NothingToPrune",
    "ProofFailed",
    "PruneError",
    "Unwritable",
    "compare",
    "couple",
    "explain",
    "prune",
    "sensitivity",
    "sparsify",
]


def prune(
    model: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    ratio: float = 0.5,
    target: str | None = None,
    criterion: str | None = None,
    scores: str | Path | Mapping[str, NDArray[Any]] | None = None,
    across: bool = False,
    layer_ratios: Mapping[str, float] | Literal["auto"] | None = None,
    sensitivity: str | Path | None = None,
    ignore: Sequence[str] = (),
    round_to: int | Literal["auto"] = "auto",
    min_channels: int = 1,
    max_ratio: float = 1.0,
    mixed: bool = False,
    attention: Literal["auto", "heads", "dims", "both"] = "auto",
    validate: bool = True,
    data: str | Path | Iterable[Mapping[str, NDArray[Any]]] | None = None,
    recover: Literal["lstsq", "bias", "bn", "none"] | None = None,
    input_mean: Sequence[float] = (0.0,),
    input_std: Sequence[float] = (1.0,),
    input_range: tuple[float, float] = (float("-inf"), float("inf")),
    memory: int = 4 * 10**9,
    drift_data: str | Path | None = None,
    evaluate: str | Path | None = None,
    threads: int = 0,
    max_memory: int | None = None,
    strict: bool = False,
    external_data: Literal["auto", "always", "never"] = "auto",
    apply_plan: str | Path | None = None,
    save_plan: str | Path | None = None,
    dry_run: bool = False,
) -> Result:
    """Prune a model, prove the cut in onnxruntime, and measure what it did.

    Args:
        model: a path, or a model in memory, which is left as it is.
        output: where to write the pruned model; None only returns it.
        ratio: fraction of channels removed in every group that can be cut, in [0, 1).
        target: what is to be left of the whole model instead, such as "macs=0.5", "params=1.5M",
            "size=10MB" or, measured in onnxruntime, "latency=8ms"; groups lose more or less, as hurts least.
        criterion: how channels are ranked: "l1", "l2", "group-l1", "group-l2", "fpgm", "bn-scale" or
            "random"; with data also "obs", "activation", "wanda" or "flap".  "obs" with data, else "l1".
        scores: your own scores instead, by weight name; shape (channels,), the highest stay.
        across: rank channels across groups, each group's scores divided by their mean.
        layer_ratios: other ratios for the groups that a glob over weight or node names matches; "auto"
            measures what each group can spare, and leaves as many parameters as `ratio` alone would.
        sensitivity: the same by a file of curves that were measured before, see `sensitivity`.
        ignore: globs; groups that touch a match stay whole.
        round_to: multiple that layer widths are rounded to; "auto" is 16, 8 or 4 by the width.
        min_channels: channels that stay in every group at least.
        max_ratio: fraction of a group that is removed at most.
        mixed: also cut axes that a LayerNorm or another statistic runs over.
        attention: where an axis is heads times head size, remove "heads", "dims" or "both"; "auto" takes
            heads where whole ones come within 10 % of the ratio, otherwise what comes nearest.
        validate: prove the cut and run both models; False gives an unproved model.
        data: unlabelled inputs to calibrate on: an .npz file with an array an input, stacked on the batch
            axis, a folder of .npz or .npy files, sets of inputs in memory, or "synthetic".
        recover: how accuracy is given back after the cut: "lstsq" fits every layer behind it to the original,
            "bias" its bias alone, "bn" the statistics of BatchNormalization, "none" nothing.  "lstsq" with
            data.
        input_mean: mean of synthetic inputs, one number or one a channel.
        input_std: their standard deviation, likewise.
        input_range: their least and largest value: what black and white are to the model.
        memory: bytes that statistics and intermediate values may take.
        drift_data: .npz with real inputs, stacked on the batch axis, to measure the drift on; the first
            of them serve the proof, too.
        evaluate: .npz with inputs and their `labels`, to count what is right before and after.
        threads: onnxruntime threads for the latency; 0 lets onnxruntime choose.
        max_memory: bytes that the proof and the runs may take; a model that does not fit is proved a block of
            nodes at a time.  None for what the machine has.
        strict: raise NothingToPrune where rounding moves the count of channels by over 10 %.
        external_data: whether the output keeps its weights in a file of their own.
        apply_plan: replay a plan file instead of choosing.
        save_plan: where to write the plan.
        dry_run: analyse and report only.

    Returns:
        The pruned model, the plan and the report.

    Raises:
        InputError: the model, an option or a file is not usable.
        NothingToPrune: nothing can be cut, or (TargetMissed) no model within 5 % of a latency was found; the
            message says why.
        NotProved: there can be no proof: onnxruntime can't run the model, or its outputs say nothing.
        ProofFailed: the cut model is not the masked original, which is a bug of ours.

    >>> from onnx import helper, numpy_helper, TensorProto
    >>> import numpy as np
    >>> w1, w2 = np.eye(8, 4, dtype=np.float32), np.ones((3, 8), np.float32)
    >>> graph = helper.make_graph(
    ...     [helper.make_node("Gemm", ["x", "w1"], ["h"], transB=1),
    ...      helper.make_node("Relu", ["h"], ["r"]),
    ...      helper.make_node("Gemm", ["r", "w2"], ["y"], transB=1)],
    ...     "two layers",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    ...     [numpy_helper.from_array(w1, "w1"), numpy_helper.from_array(w2, "w2")],
    ... )
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    >>> result = prune(model, ratio=0.5)
    >>> result.plan.initializers["w1"]
    {'shape': [8, 4], 'keep': {'0': [0, 1, 2, 3]}}
    >>> result.report.proof.error < 1e-6
    True
    """
    from onnx_prune.pipeline import prune as run
    from onnx_prune.settings import Budget, Settings
    from onnx_prune.settings import target as read_target

    settings = Settings(
        budget=Budget(
            ratio=ratio,
            across=across,
            layer_ratios=() if isinstance(layer_ratios, str) else tuple((layer_ratios or {}).items()),
            ignore=tuple(ignore),
            round_to=round_to,
            min_channels=min_channels,
            max_ratio=max_ratio,
            mixed=mixed,
            attention=attention,
            target=None if target is None else read_target(target),
        ),
        criterion=criterion,
        scores=Path(scores) if isinstance(scores, str) else scores,
        sensitivity="auto" if layer_ratios == "auto" else None if sensitivity is None else Path(sensitivity),
        apply_plan=None if apply_plan is None else Path(apply_plan),
        validate=validate,
        data=data,
        recover=recover,
        input_mean=tuple(input_mean),
        input_std=tuple(input_std),
        input_range=input_range,
        memory=memory,
        drift_data=None if drift_data is None else Path(drift_data),
        evaluate=None if evaluate is None else Path(evaluate),
        threads=threads,
        max_memory=max_memory,
        strict=strict,
        external_data=external_data,
    )
    return run(model, output, settings, save_plan=save_plan, dry_run=dry_run)


def couple(model: str | Path | onnx.ModelProto) -> Coupling:
    """Find out which channels must go together, and for every axis that stays whole, why.

    Args:
        model: a path, or a model in memory.

    Returns:
        The coupling: `groups` are what can be cut, `held` what can't, `axes` the structure of every
        tensor's dimensions.

    Raises:
        InputError: the model is not usable.
    """
    import onnx

    from onnx_prune.analyse import couple as analyse
    from onnx_prune.model import files
    from onnx_prune.model.graph import Graph

    if isinstance(model, onnx.ModelProto):
        return analyse(Graph(model))
    return analyse(Graph(files.load(model), Path(model).parent))


def explain(
    model: str | Path | onnx.ModelProto,
    *,
    mixed: bool = False,
    attention: Literal["auto", "heads", "dims", "both"] = "auto",
    why: str | None = None,
) -> Explanation:
    """Say what can be cut of a model and what stands on it, and why the rest stays whole.

    Args:
        model: a path, or a model in memory.
        mixed: take axes that a LayerNorm or another statistic runs over for cuttable.
        attention: which of heads and head size is cut.
        why: a weight, tensor or node, "NAME" or "NAME:DIM": how it is held or coupled, node by node.

    Returns:
        The explanation: `reach` is how many parameters can be cut, `groups` what can be cut and
        `held` what can't, by reason; `why` the answers to what was asked.

    Raises:
        InputError: the model is not usable, or has nothing of the name asked about.
    """
    from onnx_prune.explanation.explain import explain as run
    from onnx_prune.settings import Budget

    return run(model, Budget(mixed=mixed, attention=attention), why)


def compare(
    first: str | Path | onnx.ModelProto,
    second: str | Path | onnx.ModelProto,
    *,
    data: str | Path | None = None,
    evaluate: str | Path | None = None,
    threads: int = 0,
) -> Compared:
    """Run any two models on the same inputs: how far their answers are apart, what they cost, how fast.

    Args:
        first: a path, or a model in memory.
        second: the other, with the same inputs.
        data: .npz with an array for each input; random inputs where there is none.
        evaluate: .npz with inputs and their `labels`, to count what both get right.
        threads: onnxruntime threads for the latency; 0 lets onnxruntime choose.

    Returns:
        The comparison: `outputs` has the distance of each output by name, `sizes` what both cost.

    Raises:
        InputError: a file is not usable, the models' inputs differ, they have no output in common, or
            onnxruntime can't run one of them.
    """
    from onnx_prune.comparison.compare import compare as run

    return run(first, second, data=data, labelled=evaluate, threads=threads)


def sensitivity(
    model: str | Path | onnx.ModelProto,
    *,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    data: str | Path | Iterable[Mapping[str, NDArray[Any]]] | None = None,
    criterion: str | None = None,
    ignore: Sequence[str] = (),
    mixed: bool = False,
    attention: Literal["auto", "heads", "dims", "both"] = "auto",
    cache: str | Path | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
) -> Sensitivity:
    """Cut each group alone at several ratios, and measure how far the model's answers move.

    Args:
        model: a path, or a model in memory.
        ratios: fractions of a group's channels to remove, each in (0, 1).
        data: inputs, as for `prune`; random ones where there are none.
        criterion: how the channels of a group are ranked, as for `prune`.
        ignore: globs; groups that touch a match are left out.
        mixed: also measure axes that a LayerNorm or another statistic runs over.
        attention: which of heads and head size is cut.
        cache: a file that keeps what was measured, and that `prune` takes as `sensitivity`; what it has is
            not measured again, so a run that was stopped goes on.
        executor: runs the jobs in place of this machine's cores: anything of the kind of
            `concurrent.futures`, such as Dask's `Client.get_executor()`.
        jobs: processes of this machine, None for one a core, 1 starts none; or how many jobs are with the
            executor at once, None for 64.

    Returns:
        The curves, one for each group.

    Raises:
        InputError: a file or an option is not usable, or onnxruntime can't run the model.
        NothingToPrune: no group can be cut.
    """
    from onnx_prune.curves.measure import measure
    from onnx_prune.settings import Budget, Settings

    settings = Settings(
        budget=Budget(ignore=tuple(ignore), mixed=mixed, attention=attention),
        criterion=criterion,
        data=data,
        recover="none",
    )
    return measure(model, settings, ratios=ratios, cache=cache, executor=executor, jobs=jobs)


def sparsify(
    model: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    save_mask: str | Path | None = None,
    dry_run: bool = False,
    **asked: Any,
) -> SparseResult:
    """Set single weights to zero where they are, check that nothing else changed, and measure what it did.

    Args:
        model: a path, or a model in memory, which is left as it is.
        output: where to write the model; None only returns it.
        save_mask: where to write which weights stay.
        dry_run: choose and report only.
        asked: the fields of `onnx_prune.sparse.sparsity.Sparsity`, such as `ratio`, `criterion` or `pattern`.

    Returns:
        The model, its mask and the report.

    Raises:
        InputError: the model, an option or a file is not usable.
        NothingToPrune: no weight takes part; the message says why.
        ProofFailed: a weight is not its mask times what it was, which is a bug of ours.

    >>> from onnx import helper, numpy_helper, TensorProto
    >>> import numpy as np
    >>> graph = helper.make_graph(
    ...     [helper.make_node("MatMul", ["x", "w"], ["y"])],
    ...     "one layer",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    ...     [numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "w")],
    ... )
    >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    >>> result = sparsify(model, ratio=0.75)
    >>> numpy_helper.to_array(result.model.graph.initializer[0]).tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [6.0, 7.0]]
    """
    from onnx_prune.sparse.sparsify import sparsify as run
    from onnx_prune.sparse.sparsity import Sparsity

    return run(model, output, Sparsity(**asked), save_mask=save_mask, dry_run=dry_run)
