"""What recovery did, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_prune.calibration.recover import Recovery, Refit
from onnx_prune.validate import Drift
from onnx_prune.words import share, some

_DID = {
    "lstsq": ("fitted by least squares", "refitted"),
    "bias": ("given new biases", "bias"),
    "bn": ("given new BatchNormalization statistics", "refitted"),
}


def drift_in_words(drift: Drift) -> str:
    """The figures of a drift.

    Example:
        >>> drift_in_words(Drift(0.1234, 0.98765, 0.875, 8, "random inputs"))
        'relative error 0.123, cosine 0.988, top-1 agreement 87.5 %'
    """
    parts = [f"relative error {drift.relative_error:.3g}", f"cosine {drift.cosine:.3f}"]
    if drift.top1 is not None:
        parts.append(f"top-1 agreement {share(drift.top1, 1)}")
    return ", ".join(parts)


def sentences(recovery: Recovery, before: Drift | None, verbose: bool = False) -> Iterator[str]:
    """What was recovered, from what, and which layers were left alone and why.

    Args:
        recovery: what was done.
        before: the drift before that, where it was measured.
        verbose: a sentence for each layer.
    """
    did, kind = _DID[recovery.method]
    done = sum(layer.kind == kind for layer in recovery.layers)
    total = len(recovery.layers)
    text = f"recovered: {done} of {some(total, 'layer')} behind the cut {did}"
    text += f", on {some(recovery.samples, 'sample')} of {recovery.source}"
    if recovery.synthetic:
        text = text.replace(f" of {recovery.source}", ", which are synthetic; real ones recover more")
    yield text
    if before is not None:
        yield f"drift before recovery: {drift_in_words(before)}"
    others = [layer for layer in recovery.layers if layer.kind != kind]
    if verbose:
        yield from map(_layer, recovery.layers)
        return
    reasons: dict[tuple[str, str], list[Refit]] = {}
    for layer in others:
        reasons.setdefault((layer.kind, layer.why), []).append(layer)
    for (what, why), layers in reasons.items():
        became = "given a new bias only" if what == "bias" else "left as cut"
        yield f"{some(len(layers), 'layer')} {became}: {why} (such as {layers[0].layer})"


def _layer(layer: Refit) -> str:
    """One layer with the error of its result.

    Example:
        >>> _layer(Refit("conv1.weight", "refitted", "", 0.333, 0.0095, 1e-3))
        'conv1.weight: refitted, error 33.3 % before, 0.9 % after'
    """
    text = f"{layer.layer}: {layer.kind}"
    if layer.before is not None and layer.after is not None:
        text += f", error {share(layer.before, 1)} before, {share(layer.after, 1)} after"
    return text + (f"; {layer.why}" if layer.why else "")
