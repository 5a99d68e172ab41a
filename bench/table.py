"""Figures as a table in Markdown, as the documents have them."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The first column to the left, figures to the right."""
    marks = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in [heads, marks, *rows])
