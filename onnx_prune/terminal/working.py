"""How a command does its work: libraries keep quiet, a terminal sees the stage."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from onnx_prune.settings import Progress
from onnx_prune.words import plain


@contextmanager
def working(*, shown: bool) -> Iterator[Progress]:
    """Do what takes time, or writes files, inside of this.

    Args:
        shown: whether stages are named on stderr, where that is a terminal that can take a line back.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries warn of is not about the user's model
    with _progress(shown=shown) as progress:
        yield progress


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress]:
    if not shown or not sys.stderr.isatty() or os.environ.get("TERM", "") in ("dumb", ""):
        yield lambda stage: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text("starting")) as status:
        yield lambda stage: status.update(Text(plain(stage)))
