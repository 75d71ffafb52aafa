"""What was measured: for each group how far the answers move when so many of its channels are gone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from onnx_prune.errors import InputError
from onnx_prune.model import files

FORMAT, VERSION = "onnx-prune-sensitivity", 1


Measure = Literal["kl", "error"]
WORDS = {"kl": "KL of class scores", "error": "relative error"}


@dataclass(frozen=True, slots=True)
class Point:
    """What cutting one group costs.

    Attributes:
        removed: channels gone, those of the lowest scores.
        error: relative error of the output that it moves most, see `onnx_prune.comparison.distance`.
        kl: the largest Kullback-Leibler divergence of class scores, nats a sample; None without such.
    """

    removed: int
    error: float
    kl: float | None

    def by(self, measure: Measure) -> float:
        """The cost by one of the two."""
        return self.error if measure == "error" or self.kl is None else self.kl


@dataclass(frozen=True, slots=True)
class Curve:
    """One group by itself, all others whole.

    Attributes:
        name: the group's name, its first producer's weight and dimension.
        size: number of channels.
        points: the least removed first.
    """

    name: str
    size: int
    points: tuple[Point, ...]

    def most(self, measure: Measure) -> float:
        """The most that any point costs."""
        return max((point.by(measure) for point in self.points), default=0.0)

    def point(self, removed: int) -> Point | None:
        """What was measured with so many channels gone."""
        return next((point for point in self.points if point.removed == removed), None)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The curves of a model.

    As JSON it is these fields by these names, and those of the classes that they hold, after
    `"format": "onnx-prune-sensitivity"` and `"version": 1`.

    Attributes:
        source: the model's path, None for a model given as an object.
        model_sha256: of the model with its weights.
        data_sha256: of the inputs.
        data: where they come from, or "random inputs".
        samples: how many they are.
        criterion: how the channels of a group were ranked.
        curves: one for each group that can be cut.
    """

    source: str | None
    model_sha256: str
    data_sha256: str
    data: str
    samples: int
    criterion: str
    curves: tuple[Curve, ...]

    @property
    def measure(self) -> Measure:
        """What the points are told by: the divergence of class scores where all have one, else the error."""
        points = [point for curve in self.curves for point in curve.points]
        return "kl" if points and all(point.kl is not None for point in points) else "error"

    @property
    def key(self) -> tuple[str, str, str]:
        """What two measurements have in common that can be put together."""
        return self.model_sha256, self.data_sha256, self.criterion

    def by_name(self) -> Mapping[str, Curve]:
        """The curves by the name of their group."""
        return {curve.name: curve for curve in self.curves}

    def to_dict(self) -> dict[str, Any]:
        """The curves as plain data, ready for JSON."""
        return asdict(self)


def to_json(found: Sensitivity) -> str:
    """One strict JSON document; an error that is infinite is null."""
    content = found.to_dict()
    for curve in content["curves"]:
        for point in curve["points"]:
            point["error"] = None if point["error"] == float("inf") else point["error"]
    return json.dumps({"format": FORMAT, "version": VERSION} | content, indent=2, allow_nan=False)


def write(found: Sensitivity, path: Path) -> None:
    """Write the curves, whole or not at all.

    Raises:
        Unwritable: the operating system refused; an old file is as it was.
    """
    files.write_text(path, to_json(found) + "\n")


def read(path: Path) -> Sensitivity:
    """Read what `write` wrote.

    Raises:
        InputError: the file can't be read, or is another.
    """
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != FORMAT or content.pop("version") != VERSION:
            raise ValueError
        curves = tuple(
            Curve(row["name"], int(row["size"]), tuple(_point(point) for point in row["points"]))
            for row in content.pop("curves")
        )
        return Sensitivity(**content, curves=curves)
    except OSError as error:
        raise InputError(f"{str(path)!r} can't be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{str(path)!r} is no file of curves of this version; make one with onnx-prune sensitivity"
        ) from None


def _point(row: dict[str, Any]) -> Point:
    error, kl = row["error"], row["kl"]
    return Point(
        int(row["removed"]),
        float("inf") if error is None else float(error),
        None if kl is None else float(kl),
    )
