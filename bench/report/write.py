"""From a folder with a summary to the same folder with its report."""

from __future__ import annotations

import os
from pathlib import Path

from bench.report.content import sections
from bench.report.markdown import as_markdown
from bench.report.page import as_html
from bench.report.summary import read_summary


def write_report(folder: Path) -> tuple[Path, Path]:
    """Writes `report.md` and `report.html` from `summary.json`, over what is there; both paths.

    Raises `SummaryError` where there is no summary that can be read. What a summary lacks, its report lacks.
    """
    summary = read_summary(folder / "summary.json")
    content = sections(summary, folder)
    texts = {"report.md": as_markdown(content), "report.html": as_html(content)}
    for name, text in texts.items():
        # Whoever reloads the page while it is written must not see half of it.
        unfinished = folder / f".{name}.new"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)
    return folder / "report.md", folder / "report.html"
