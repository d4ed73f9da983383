"""Let napoleon take return values and attributes as prose, because types are in the signatures."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring


def _returns(self: NumpyDocstring, section: str) -> list[str]:
    """Keep the section as written; napoleon would take the words before a colon for a name."""
    lines = self._dedent(self._consume_to_next_section())
    # sphinx-autodoc-typehints puts a colon in front, which tells napoleon's own parser that there is no type.
    return self._format_block(":returns: ", lines[1:] if lines[0] == ":" else lines)


def _attribute(self: NumpyDocstring) -> tuple[str, list[str]]:
    """Keep the text as written; napoleon would take the words before a colon for a type."""
    return "", self._consume_to_end()


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace two parsers of napoleon's."""
    NumpyDocstring._parse_returns_section = _returns
    NumpyDocstring._consume_inline_attribute = _attribute
    return {"parallel_read_safe": True}
