"""The report as one page that needs nothing else: style and pictures are in it, and there is no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from bench.report.content import Section
from bench.report.drawing import Chart
from bench.report.tables import Table
from bench.report.words import Remark

_STYLE = Path(__file__).with_name("page.css")
# The page loads nothing, and even what should slip into it could not.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def as_html(content: Sequence[Section]) -> str:
    parts = "\n".join(part for section in content for part in _parts(section))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>What each layer buys</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>What each layer buys</h1>
{parts}
</main>
</body>
</html>
"""


def _parts(section: Section) -> Iterator[str]:
    yield f"<section>\n<h2>{escape(section.title)}</h2>"
    if section.about:
        yield f"<p>{escape(section.about)}</p>"
    if section.remarks:
        for stage, remarks in groupby(section.remarks, key=lambda remark: remark.stage):
            yield from ([f"<h3>{escape(stage)}</h3>"] if stage else [])
            yield "<ul>\n" + "\n".join(_remark(remark) for remark in remarks) + "\n</ul>"
    yield from (_chart(chart) for chart in section.charts)
    yield from (_table(table) for table in section.tables if table.rows)
    if section.links:
        links = (
            f'<li><a href="{escape(link.address)}">{escape(link.text)}</a></li>' for link in section.links
        )
        yield "<ul>\n" + "\n".join(links) + "\n</ul>"
    yield "</section>"


def _remark(remark: Remark) -> str:
    return (
        f'<li class="bad">⚠ {escape(remark.text)}</li>' if remark.bad else f"<li>{escape(remark.text)}</li>"
    )


def _chart(chart: Chart) -> str:
    return f"<figure>\n<figcaption>{escape(chart.title)}</figcaption>\n{chart.svg}\n</figure>"


def _table(table: Table) -> str:
    """The first column names the row, and a caption the table where it has one."""
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    head = f"<thead><tr>{heads}</tr></thead>" if any(table.heads) else ""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    return f'<div class="wide" tabindex="0"><table>{caption}{head}\n<tbody>\n{rows}\n</tbody></table></div>'
