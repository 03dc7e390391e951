"""Sphinx: the pages of this folder, and the API from the docstrings."""

import re

project = "privfl"
author = "The privfl authors"
copyright = "The privfl authors, Apache-2.0"  # noqa: A001 - the name that Sphinx reads
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
html_theme = "furo"
html_title = "privfl"
exclude_patterns = ["_build"]
viewcode_follow_imported_members = False  # it links back to the first name of a module only, and so to nowhere
myst_heading_anchors = 3
autodoc_mock_imports = ["flwr", "nvflare"]  # their pages are built where neither is installed
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_custom_sections = [("Placements", "params_style")]
default_role = "code"
suppress_warnings = ["autodoc.mocked_object"]


def _plain(app, what, name, obj, options, lines):
    """Docstrings are plain text with `names` in backquotes: shield what reStructuredText would read as markup."""
    if name == "privfl.errors":
        lines[2:] = ["::", "", *("    " + line for line in lines[2:])]
    else:
        lines[:] = [line.replace("\\", "\\\\").replace("|", "\\|") for line in lines]


def _outside(app, docname, source):
    """A link to a file outside of this folder is shown as its path: the built pages do not hold it."""
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)", r"\1 (`\2`)", source[0])


def setup(app):
    app.connect("source-read", _outside)
    app.connect("autodoc-process-docstring", _plain)
