"""How Sphinx builds the documentation site from these pages; `scripts/docs` runs it."""

import sys
from pathlib import Path

from sphinx.util.inspect import TypeAliasForwardRef

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import tfpipe  # noqa: E402 - the two folders above must be known first

project = "tfpipe"
author = "the tfpipe authors"
copyright = author
version = release = tfpipe.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxarg.ext", "site_pages"]
# README.md lists the pages for readers of the repository. The site has index.rst instead.
exclude_patterns = ["README.md"]
# In the docstrings, as in Markdown, text between single backticks is code.
default_role = "code"
# Each heading of the Markdown pages gets the anchor that it has on GitHub.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# The name is shown, not the dozen types that NumPy defines it as.
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
TypeAliasForwardRef.__repr__ = lambda alias: alias.name  # type: ignore[method-assign]
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
# Types of Python and of other packages have no page here.
nitpick_ignore_regex = [
    ("py:class", r"(numpy|os|pathlib|collections|tf|keras)\..*"),
    ("py:class", "AbstractContextManager|ArrayLike|Folder|PathLike"),
]
# Quotes and dashes stay what they are, because many of them belong to commands.
smartquotes = False

html_theme = "furo"
html_title = f"tfpipe {release}"
html_copy_source = False
html_show_sphinx = False
