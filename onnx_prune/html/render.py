"""A page as one HTML file, by Jinja, the one door to it: every text is escaped, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from onnx_prune.html.page import Page
from onnx_prune.words import plain

if TYPE_CHECKING:
    from jinja2 import Template


def render(page: Page) -> str:
    """The file's text; the same page is the same bytes."""
    script = _text("controls.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(page=page, style=_text("style.css"), script=script, digest=digest)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def visible(value: Any) -> Any:
        """Text with what a terminal or a browser would obey or hide spelled out; Jinja then escapes it."""
        return value if isinstance(value, Markup) else plain(value)

    def breaking(text: str) -> Markup:
        """A name that may go on in the next line behind a stop, a slash, an underscore or a colon."""
        parts = re.findall(r"[^/._:]*[/._:]+|[^/._:]+", plain(text))
        return Markup("<wbr>").join(parts)

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )
    environment.filters["breaking"] = breaking
    environment.tests |= {"kind": lambda block, name: type(block).__name__ == name}
    return environment.from_string(_text("template.html"))


def _text(name: str) -> str:
    return files("onnx_prune.html").joinpath(name).read_text("utf-8")
