"""How much memory there is, and tensors that ask for more: refused before anything is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod as product

from onnx import helper

from onnx_prune.errors import InputError
from onnx_prune.words import human, plain


def available() -> int:
    """Bytes of memory that this process could have at most: the machine's, or what it is limited to.

    Example:
        >>> available() > 1 << 20
        True
    """
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    try:
        import resource
    except ImportError:  # not on Windows
        return min(sizes, default=1 << 62)
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min([*sizes, *(limit for limit in limits if limit != resource.RLIM_INFINITY)], default=1 << 62)


def require_fits(known: Mapping[str, tuple[int, ...]], types: Mapping[str, int]) -> None:
    """Require of every tensor that it alone fits into memory.

    Args:
        known: shape of each tensor.
        types: its element type, a byte an element where that is not known.

    Raises:
        InputError: One is larger than the memory there is.

    Example:
        >>> require_fits({"y": (10**9, 10**9)}, {"y": 1})
        Traceback (most recent call last):
        onnx_prune.errors.InputError: tensor 'y' of shape (1000000000, 1000000000) takes more memory \
(4.00 EB) than there is; make it smaller
    """
    most = available()
    for name, shape in known.items():
        size = product(shape) * _itemsize(types.get(name, 0))
        if size > most:
            asked = f"shape {shape} takes more memory ({human(size, 'B')}) than there is"
            raise InputError(f"tensor {plain(name)!r} of {asked}; make it smaller")


def _itemsize(kind: int) -> int:
    try:
        return max(1, helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except KeyError:
        return 1
