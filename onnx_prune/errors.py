"""Everything that can go wrong, as one tree of exceptions.

Each message is one line: what is wrong, where, and the way out.
"""

from __future__ import annotations


class PruneError(Exception):
    """Base of every error that onnx-prune raises on purpose."""

    exit_code = 2


class InputError(PruneError):
    """The model, an option or a file that the user gave cannot be used (exit code 2)."""


class Unwritable(InputError):
    """The output could not be written; whatever was there before is untouched (exit code 2)."""


class NothingToPrune(PruneError):
    """No axis of the model can be cut, or strictly asked ratios were missed (exit code 4)."""

    exit_code = 4


class LimitCrossed(PruneError):
    """Two models differ by more than was allowed, or one is too slow (exit code 4)."""

    exit_code = 4


class TargetMissed(NothingToPrune):
    """A target in time was not met, or what was measured is too noisy to tell (exit code 4)."""


class ProofFailed(PruneError):
    """The cut model differs from the masked original: a bug of ours (exit code 3)."""

    exit_code = 3


class NotProved(PruneError):
    """There can be no proof, and why; nothing is known to be wrong (exit code 2)."""


class Misfit(PruneError):
    """A rule's pattern does not fit the shapes of a node; the node's axes are then held."""

    exit_code = 3


class Interrupted(SystemExit):
    """A signal asked the process to stop (exit code 128 + its number: Ctrl-C 130, SIGTERM 143, SIGHUP 129).

    Not a `PruneError`: nothing is wrong, and `except Exception` must not stop it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
