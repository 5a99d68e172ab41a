"""What the report holds, in order, for a page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench.report import charts, tables
from bench.report.charts import by_part
from bench.report.drawing import Chart
from bench.report.numerals import plain
from bench.report.summary import Stage, Summary
from bench.report.tables import Table
from bench.report.words import Remark, of_stage, what_one_sees

_STATEMENTS, _CPU = "statements for 1,000 requests", "CPU, ms a request"


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    address: str


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    remarks: Sequence[Remark] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    links: Sequence[Link] = ()
    about: str = ""


def sections(summary: Summary, folder: Path) -> list[Section]:
    """Of `folder` only the names are looked at, for k6's own pages."""
    stages = summary.stages
    remarks = [each for n, s in enumerate(stages) for each in of_stage(s, stages[n - 1] if n else None)]
    found = [
        Section(
            "What one sees",
            remarks=what_one_sees(summary),
            tables=[tables.overview(stages)],
            about=_about(summary),
        ),
        Section("Stage by stage", remarks=remarks),
        Section("Latency", charts=_drawn(charts.latency(stages)), tables=[tables.latencies(stages)]),
        Section("Throughput", charts=_drawn(charts.throughput(stages, summary.rate))),
        Section(
            "Latency by percentile",
            about="The farther to the right, the rarer: each step is ten times rarer than the one before.",
            charts=_drawn(charts.percentiles(stages)),
            tables=tables.percentiles(stages),
        ),
        Section("Latency over time", charts=_drawn(charts.over_time(stages))),
        _by_node(stages),
        Section(
            "CPU by kind of process",
            charts=_drawn(
                by_part(
                    "cpu", "CPU by kind of process", _CPU, stages, totals=lambda s: s.cpu_seconds, scale=1000
                )
            ),
            tables=tables.by_key(_CPU, stages, lambda s: s.cpu_seconds, 1000),
        ),
        Section("Cache, lag, waiting for a connection", tables=[tables.layers(stages)]),
        Section(
            "Errors",
            charts=_drawn(
                by_part(
                    "errors",
                    "Errors by kind",
                    "in 1,000 requests",
                    stages,
                    totals=lambda s: s.errors_by_share,
                    scale=1000,
                )
            ),
            tables=tables.by_key("of all rounds together", stages, lambda s: s.errors, None),
        ),
        Section("Kinds of request", tables=tables.kinds(stages)),
        Section("Rounds", charts=_drawn(charts.rounds(stages)), tables=[tables.spread(stages)]),
        Section(
            "What it was measured on", tables=tables.circumstances(summary), links=k6_pages(stages, folder)
        ),
    ]
    return [s for s in found if s.remarks or s.charts or s.links or any(table.rows for table in s.tables)]


def _by_node(stages: Sequence[Stage]) -> Section:
    nodes = sorted({n for s in stages for of in (s.statements, s.rows) for n in of})
    return Section(
        "Which node did what",
        about="For each request that was answered: a stage that answered more had more to do.",
        charts=_drawn(
            by_part(
                "statements", "Statements by node", _STATEMENTS, stages,
                totals=lambda s: s.statements, scale=1000, among=nodes,
            ),
            by_part(
                "node-cpu", "CPU by node", _CPU, stages,
                totals=lambda s: s.database_cpu_seconds,
                scale=1000, among=nodes,
            ),
            by_part("rows", "Rows by node", "rows a request", stages, totals=lambda s: s.rows, among=nodes),
        ),
        tables=[
            *tables.by_key(_STATEMENTS, stages, lambda s: s.statements, 1000),
            *tables.by_key(_CPU, stages, lambda s: s.cpu_seconds_by_node, 1000),
            *tables.by_key("rows a request", stages, lambda s: s.rows),
            *tables.by_key("bytes of WAL a request", stages, lambda s: s.wal_bytes),
            *tables.by_key("held back by the CPU budget, s in all", stages, lambda s: s.throttled_seconds, None),
        ],
    )  # fmt: skip


def _about(summary: Summary) -> str:
    parts = [
        f"Asked for: {plain(summary.rate)} requests a second." if summary.rate else "",
        f"Commit {summary.commit}." if summary.commit else "",
        f"Started at {summary.started_at}." if summary.started_at else "",
    ]
    return " ".join(part for part in parts if part)


def _drawn(*found: Chart | None) -> list[Chart]:
    return [chart for chart in found if chart is not None]


def k6_pages(stages: Sequence[Stage], folder: Path) -> list[Link]:
    """k6's own page of each stage that has one. A name that would lead out of the folder has none."""
    names = [(stage.name, f"k6-{stage.name}.html") for stage in stages]
    return [
        Link(f"k6's own page of {stage}", quote(name))
        for stage, name in names
        if Path(name).name == name and "\0" not in name and (folder / name).is_file()
    ]
