"""Sphinx's settings: pages in Markdown, the API from docstrings, the command line from the click commands."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, ClassVar

from pygments.lexer import RegexLexer
from pygments.token import Comment, Name, Text
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

project = "onnx-prune"
author = "the authors of onnx-prune"
version = release = installed("onnx-prune")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "commands"]
html_theme = "furo"
html_title = f"onnx-prune {release}"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = html_show_copyright = False
smartquotes = False  # they make one dash of an option's two

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
nitpicky = False  # NumPy's and onnx's types are named, and no inventory is fetched to link them


class Typed(RegexLexer):
    """Commands by words, each of which stays on one line; Bash's own lexer takes in.onnx for a loop."""

    name = "typed"
    tokens: ClassVar = {
        "root": [(r"#.*", Comment), (r"^\S+", Name.Builtin), (r"(?:'[^']*'|\S)+", Name), (r"\s+", Text)]
    }


def reachable(app: Sphinx, page: str, template: str, context: dict[str, Any], source: object) -> None:
    """Let keys reach what scrolls, and say how high the sidebar's headings stand."""
    if "body" in context:
        body = context["body"].replace("<pre>", '<pre tabindex="0">')
        context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Sphinx) -> None:
    """Register what changes pages."""
    app.add_lexer("sh", Typed)
    app.connect("html-page-context", reachable, priority=900)
