"""Packages that a few options need and that are not installed with the program."""

from __future__ import annotations

from importlib.util import find_spec

from onnx_prune.errors import InputError


def require_extra(option: str, extra: str, packages: tuple[str, ...]) -> None:
    """Raise InputError, with the way out, where an option's packages are not there.

    Args:
        option: as it is written.
        extra: what brings the packages.
        packages: their names, as they are imported.

    Example:
        >>> require_extra("--draw", "pens", ("no_such_package",))
        Traceback (most recent call last):
        onnx_prune.errors.InputError: --draw needs no_such_package: pip install 'onnx-prune[pens]'
    """
    lacking = [name for name in packages if find_spec(name) is None]
    if lacking:
        raise InputError(f"{option} needs {' and '.join(lacking)}: pip install 'onnx-prune[{extra}]'")
