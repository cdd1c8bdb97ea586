"""Sphinx settings: `make docs` builds these pages and the reference of the public names."""

import importlib.metadata
import re

project = "loopwm"
author = "the loopwm authors"
release = version = importlib.metadata.version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["results/*.py"]
html_theme = "furo"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True


_CODE = re.compile(r"``.+?``|`[^`\n]+`", re.DOTALL)
_DISPLAY = re.compile(r"^( *)\$\$(.+?)\$\$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"\$([^$]+?)\$")


def _from_markdown(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings have code and formulas as Markdown has them; reStructuredText writes otherwise."""
    text, kept = "\n".join(lines), []

    def keep(written: str) -> str:
        kept.append(written)
        return f"\0{len(kept) - 1}\0"

    def display(found: re.Match[str]) -> str:
        indent, formula = found.groups()
        return keep(f"\n{indent}.. math:: {' '.join(formula.split())}\n\n{indent}")

    text = _CODE.sub(lambda found: keep(f"``{found.group().strip('`')}``"), text)
    text = _DISPLAY.sub(display, text)
    text = _INLINE.sub(lambda found: keep(f":math:`{' '.join(found.group(1).split())}`"), text)
    text = re.sub(r"([*|])", r"\\\1", text)
    while "\0" in text:  # a formula may hold code
        text = re.sub("\0(\\d+)\0", lambda found: kept[int(found.group(1))], text)
    lines[:] = text.split("\n")
    if what in ("attribute", "data", "property"):
        # Else napoleon takes what stands before a colon for a type; an empty comment has none.
        lines[:0] = ["..", ""]


def setup(app) -> None:
    """Registers what reads docstrings, before napoleon does."""
    app.connect("autodoc-process-docstring", _from_markdown, priority=400)
