"""Tables in Markdown, and the marks between which a tool writes them into a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def replaced(text: str, name: str, content: str, page: Path) -> str:
    """The text of a page with the lines between two marks replaced.

    Args:
        text: The text.
        name: The name in the marks `<!-- name -->` and `<!-- end of name -->`.
        content: The new lines.
        page: The page, for the error.

    Raises:
        SystemExit: If a mark is missing.
    """
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not start or not end:
        raise SystemExit(f"{page} has no marks <!-- {name} --> and <!-- end of {name} -->: put them back")
    return f"{before}{start}{content}\n{end}{after}"


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown.

    Args:
        names: The names of the columns.
        rows: The rows.
    """
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (names, ["---"] * len(names), *rows)]
    return "\n".join(lines)
