"""The tables: the same figures as in the pictures, and those that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.compare import difference
from bench.report.numerals import MISSING, count, milliseconds, percent, plain, volume
from bench.report.summary import Stage, Summary

_COMPARED = (
    ("p50_ms", "p50, ms"),
    ("p95_ms", "p95, ms"),
    ("p99_ms", "p99, ms"),
    ("requests_per_second", "requests/s"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Text as it came from the file: whoever writes it out escapes it. Figures stand to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def overview(stages: Sequence[Stage]) -> Table:
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


def latencies(stages: Sequence[Stage]) -> Table:
    figures = ("p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
    return Table(
        ("stage", "p50, ms", "p95, ms", "p99, ms", "p99.9, ms", "longest, ms"),
        [(stage.name, *(milliseconds(stage.get(figure)) for figure in figures)) for stage in stages],
    )


def percentiles(stages: Sequence[Stage]) -> list[Table]:
    named = sorted({p for stage in stages for p, _ in stage.percentiles})
    if not named:
        return []
    rows = [
        (f"{p:g} % within, ms", *(milliseconds(dict(stage.percentiles).get(p)) for stage in stages))
        for p in named
    ]
    return [Table(("", *(stage.name for stage in stages)), rows)]


def by_key(
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


def layers(stages: Sequence[Stage]) -> Table:
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


def kinds(stages: Sequence[Stage]) -> list[Table]:
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


def spread(stages: Sequence[Stage]) -> Table:
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


def circumstances(summary: Summary) -> list[Table]:
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
