"""The report as Markdown: everything but the pictures, whose figures are in the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from bench.report.content import Section
from bench.report.tables import Table
from bench.table import table


def as_markdown(content: Sequence[Section]) -> str:
    return (
        "\n\n".join(["# What each layer buys", *(part for section in content for part in _parts(section))])
        + "\n"
    )


def _parts(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    if section.about:
        yield escaped(section.about)
    if section.remarks:
        for stage, remarks in groupby(section.remarks, key=lambda remark: remark.stage):
            yield from ([f"**{escaped(stage)}**"] if stage else [])
            yield "\n".join(f"- {'⚠ ' if remark.bad else ''}{escaped(remark.text)}" for remark in remarks)
    for each in section.tables:
        if each.rows:
            yield from ([f"**{escaped(each.title)}**"] if each.title else [])
            yield _table(each)
    if section.links:
        yield "\n".join(f"- [{escaped(link.text)}]({link.address})" for link in section.links)


def _table(found: Table) -> str:
    return table(
        [escaped(head) for head in found.heads], [[escaped(cell) for cell in row] for row in found.rows]
    )


def escaped(text: str) -> str:
    """On one line, and nothing in it that Markdown, or HTML within it, would take for its own."""
    return re.sub(r"([\\`*_\[\]<>|~$&#!])", r"\\\1", " ".join(text.split()))
