"""Sphinx's settings: pages in Markdown, the API from docstrings, the command line from the click commands."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "onnx-prune"
author = "the authors of onnx-prune"
version = release = installed("onnx-prune")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "commands"]
html_theme = "furo"
html_title = f"onnx-prune {release}"

myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
nitpicky = False  # NumPy's and onnx's types are named, and no inventory is fetched to link them
