"""Options that more than one verb has, each in a section of the verb's own help."""

from __future__ import annotations

from onnx_prune.settings import ATTENTION, Budget
from onnx_prune.terminal.command import Choice, Option


def as_json(section: str) -> Option:
    """Print the result for a script."""
    return Option(["--json", "as_json"], section=section, is_flag=True, help="Print one JSON document.")


def quiet(section: str) -> Option:
    """Print no result."""
    return Option(["-q", "--quiet"], section=section, is_flag=True, help="Print nothing but errors.")


def attention(section: str) -> Option:
    """What a group of heads times head size is cut by."""
    return Option(
        ["--attention"],
        section=section,
        type=Choice(*ATTENTION),
        metavar="WHAT",
        default=Budget().attention,
        help=f"Of heads times head size: {', '.join(ATTENTION)}; {Budget().attention} unless given.",
    )
