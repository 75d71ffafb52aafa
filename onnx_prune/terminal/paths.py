"""Files that the command line names: they are there, or one line says so before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from onnx_prune.errors import InputError
from onnx_prune.words import guess


def require_file(path: Path) -> None:
    """Raise InputError, with a guess at what was meant, where there is no such file."""
    if not path.exists():
        raise InputError(f"{str(path)!r}: no such file{guess(path.name, beside(path)) or '; check the path'}")


def require_place(path: Path) -> None:
    """Raise InputError where a file can't be written for want of a folder."""
    if path.is_dir():
        raise InputError(f"{str(path)!r}: is a directory; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{str(path)!r}: there is no folder {str(path.parent)!r}; make it first")


def beside(path: Path) -> list[str]:
    """Names of what is in a path's folder."""
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []
