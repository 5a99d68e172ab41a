"""What the report holds, in order, for a page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.report import charts
from bench.report.charts import Chart, by_part
from bench.report.compare import difference
from bench.report.numerals import MISSING, count, milliseconds, percent, plain, volume
from bench.report.summary import Stage, Summary
from bench.report.words import Remark, of_stage, what_one_sees

_COMPARED = (
    ("p50_ms", "p50, ms"),
    ("p95_ms", "p95, ms"),
    ("p99_ms", "p99, ms"),
    ("requests_per_second", "requests/s"),
)

_STATEMENTS, _CPU = "statements for 1,000 requests", "CPU, ms a request"


@dataclass(frozen=True, slots=True)
class Table:
    """Text as it came from the file: whoever writes it out escapes it. Figures stand to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


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
            "What one sees", remarks=what_one_sees(summary), tables=[_overview(stages)], about=_about(summary)
        ),
        Section("Stage by stage", remarks=remarks),
        Section("Latency", charts=_drawn(charts.latency(stages)), tables=[_latencies(stages)]),
        Section("Throughput", charts=_drawn(charts.throughput(stages, summary.rate))),
        Section(
            "Latency by percentile",
            about="The farther to the right, the rarer: each step is ten times rarer than the one before.",
            charts=_drawn(charts.percentiles(stages)),
            tables=_percentile_table(stages),
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
            tables=_by_key(_CPU, stages, lambda s: s.cpu_seconds, 1000),
        ),
        Section("Cache, lag, waiting for a connection", tables=[_layers(stages)]),
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
            tables=_by_key("of all rounds together", stages, lambda s: s.errors, None),
        ),
        Section("Kinds of request", tables=_kinds(stages)),
        Section("Rounds", charts=_drawn(charts.rounds(stages)), tables=[_spread(stages)]),
        Section("What it was measured on", tables=_circumstances(summary), links=k6_pages(stages, folder)),
    ]
    return [s for s in found if s.remarks or s.charts or s.links or any(table.rows for table in s.tables)]


def _by_node(stages: Sequence[Stage]) -> Section:
    nodes = sorted({n for s in stages for of in (s.statements, s.cpu_seconds_by_node, s.rows) for n in of})
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
                totals=lambda s: s.cpu_seconds_by_node, scale=1000, among=nodes,
            ),
            by_part("rows", "Rows by node", "rows a request", stages, totals=lambda s: s.rows, among=nodes),
        ),
        tables=[
            *_by_key(_STATEMENTS, stages, lambda s: s.statements, 1000),
            *_by_key(_CPU, stages, lambda s: s.cpu_seconds_by_node, 1000),
            *_by_key("rows a request", stages, lambda s: s.rows),
            *_by_key("bytes of WAL a request", stages, lambda s: s.wal_bytes),
            *_by_key("held back by the CPU budget, s in all", stages, lambda s: s.throttled_seconds, None),
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


def _overview(stages: Sequence[Stage]) -> Table:
    return Table(
        ("stage", "requests/s", "errors", "wrong", "never sent", "p50, ms", "p95, ms", "p99, ms", "from cache"),
        [
            (
                stage.name,
                plain(stage.get("requests_per_second")),
                percent(stage.get("error_rate")),
                count(stage.get("wrong_answers")),
                count(stage.get("dropped_iterations")),
                *(milliseconds(stage.get(figure)) for figure in ("p50_ms", "p95_ms", "p99_ms")),
                percent(stage.get("cache_hit_rate")),
            )
            for stage in stages
        ],
    )  # fmt: skip


def _latencies(stages: Sequence[Stage]) -> Table:
    figures = ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
    return Table(
        ("stage", "p50, ms", "p95, ms", "p99, ms", "p99.9, ms", "longest, ms"),
        [(stage.name, *(milliseconds(stage.get(figure)) for figure in figures)) for stage in stages],
    )


def _percentile_table(stages: Sequence[Stage]) -> list[Table]:
    named = sorted({p for stage in stages for p, _ in stage.percentiles})
    if not named:
        return []
    rows = [
        (f"{p:g} % within, ms", *(milliseconds(dict(stage.percentiles).get(p)) for stage in stages))
        for p in named
    ]
    return [Table(("", *(stage.name for stage in stages)), rows)]


def _by_key(
    title: str,
    stages: Sequence[Stage],
    totals: Callable[[Stage], Mapping[str, float]],
    scale: float | None = 1,
) -> list[Table]:
    """A row for each node (or kind), a column for each stage; `scale` None: not divided by the requests."""

    def cell(stage: Stage, key: str) -> str:
        total = totals(stage).get(key)
        if total is None:
            return MISSING
        each = stage.per_request(total)
        return plain(total) if scale is None else plain(None if each is None else each * scale)

    keys = sorted({key for stage in stages for key in totals(stage)})
    if not keys:
        return []
    rows = [(key, *(cell(stage, key) for stage in stages)) for key in keys]
    return [Table(("", *(stage.name for stage in stages)), rows, title)]


def _layers(stages: Sequence[Stage]) -> Table:
    return Table(
        ("stage", "on", "from cache", "replicas behind, p50", "at most", "waited for the pool, p50, ms", "p99, ms"),
        [
            (
                stage.name,
                ", ".join(name for name, on in stage.flags.items() if on) or MISSING,
                percent(stage.get("cache_hit_rate")),
                volume(stage.replica_lag_bytes.get("p50")),
                volume(stage.replica_lag_bytes.get("max")),
                milliseconds(stage.pool_wait_ms.get("p50")),
                milliseconds(stage.pool_wait_ms.get("p99")),
            )
            for stage in stages
            if stage.flags or stage.replica_lag_bytes or stage.pool_wait_ms or stage.get("cache_hit_rate") is not None
        ],
    )  # fmt: skip


def _kinds(stages: Sequence[Stage]) -> list[Table]:
    kinds = list(dict.fromkeys(kind for stage in stages for kind in stage.kinds))
    if not kinds:
        return []
    heads = ("", *(stage.name for stage in stages))
    return [
        Table(
            heads,
            [(kind, *(show(stage.kinds.get(kind, {}).get(figure)) for stage in stages)) for kind in kinds],
            title,
        )
        for figure, title, show in (
            ("p50_ms", "p50, ms", milliseconds),
            ("p99_ms", "p99, ms", milliseconds),
            ("requests", "requests", count),
        )
    ]


def _spread(stages: Sequence[Stage]) -> Table:
    """Lowest to highest round of each figure, and what that says against the stage before."""
    rows = []
    for n, stage in enumerate(stages):
        cells = [_range(stage, figure) for figure, _ in _COMPARED]
        compared = difference(stages[n - 1], stage, "p99_ms") if n else None
        verdict = compared.verdict.value if compared else MISSING
        if any(cell != MISSING for cell in cells):
            rows.append((stage.name, *cells, verdict))
    return Table(("stage", *(label for _, label in _COMPARED), "p99 against the stage before"), rows)


def _range(stage: Stage, figure: str) -> str:
    found = stage.range_of(figure)
    if found is None:
        return MISSING
    show = milliseconds if figure.endswith("_ms") else plain
    return f"{show(found[0])} to {show(found[1])}"


def _circumstances(summary: Summary) -> list[Table]:
    facts = [("commit", summary.commit), ("started at", summary.started_at)]
    return [
        Table(("", ""), [(name, value) for name, value in facts if value]),
        *(
            Table(("", ""), rows, title)
            for title, found in (
                ("Settings, budgets", summary.settings),
                ("Machine", summary.machine),
                ("Versions", summary.versions),
            )
            if (rows := list(_leaves(found)))
        ),
    ]


def _leaves(found: Any, name: str = "") -> list[tuple[str, str]]:
    """Whatever is nested in it, as rows of a dotted name and a value."""
    if isinstance(found, Mapping):
        return [
            leaf for key, of in found.items() for leaf in _leaves(of, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(found, list):
        return [(name, ", ".join(str(each) for each in found))] if found else []
    if found is None or found == "":
        return []
    shown = ("yes" if found else "no") if isinstance(found, bool) else str(found)
    return [(name, shown)]


def k6_pages(stages: Sequence[Stage], folder: Path) -> list[Link]:
    """k6's own page of each stage that has one. A name that would lead out of the folder has none."""
    names = [(stage.name, f"k6-{stage.name}.html") for stage in stages]
    return [
        Link(f"k6's own page of {stage}", quote(name))
        for stage, name in names
        if Path(name).name == name and "\0" not in name and (folder / name).is_file()
    ]
