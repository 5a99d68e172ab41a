"""The pictures. Each gives None where the summary has no figures for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench.report.drawing import (
    MARKS,
    Chart,
    draw,
    height_inches,
    legend,
    line_look,
    logarithmic,
    name_rows,
    positive,
    stacked,
)
from bench.report.numerals import milliseconds
from bench.report.summary import Stage
from bench.report.svg import INK, SERIES

_PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 99.999)
_ALL = 100.0
_LABELLED = frozenset({50.0, 90.0, 99.0, 99.9, 99.99, 99.999})


def latency(stages: Sequence[Stage]) -> Chart | None:
    """p50, p95 and p99 of each stage, with the range of the rounds."""
    figures = (("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99"))
    if not any(positive(stage.get(figure)) for stage in stages for figure, _ in figures):
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for n, (key, label) in enumerate(figures):
            points = [(row, value) for row, stage in enumerate(stages) if (value := positive(stage.get(key)))]
            at = [row + (n - 1) * 0.18 for row, _ in points]
            axes.plot(
                [value for _, value in points],
                at,
                linestyle="",
                marker=MARKS[n],
                color=SERIES[n],
                label=label,
            )
            for (row, value), y in zip(points, at, strict=True):
                low, high = stages[row].range_of(key) or (value, value)
                axes.plot([max(low, 1e-3), max(high, 1e-3)], [y, y], color=SERIES[n], linewidth=1.5)
                axes.annotate(
                    milliseconds(value),
                    (max(high, value), y),
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    size=8,
                )
        logarithmic(axes, "x", "latency, ms (logarithmic); the line is the range of the rounds")
        name_rows(axes, [stage.name for stage in stages])
        axes.margins(x=0.08)
        legend(figure, 3)

    told = "; ".join(
        f"{s.name}: " + ", ".join(f"{label} {milliseconds(s.get(key))} ms" for key, label in figures)
        for s in stages
    )
    return draw("latency", "Latency, stage by stage", told, paint, height_inches(stages))


def throughput(stages: Sequence[Stage], rate: float | None) -> Chart | None:
    """Answered well, answered with an error, never sent: together what was asked for."""
    parts: dict[str, list[float]] = {"answered well": [], "errors": [], "never sent": []}
    for stage in stages:
        flow, seconds = stage.get("requests_per_second") or 0.0, stage.seconds
        good = stage.get("good_requests_per_second")
        wrong = flow * (stage.get("error_rate") or 0.0) if good is None else max(flow - good, 0.0)
        parts["answered well"].append(flow - wrong)
        parts["errors"].append(wrong)
        parts["never sent"].append((stage.get("dropped_iterations") or 0.0) / seconds if seconds else 0.0)
    if not any(any(values) for values in parts.values()):
        return None

    def finish(axes: Axes) -> None:
        if rate:
            axes.axvline(rate, color=INK, linewidth=1, linestyle="--", label="asked for")

    return stacked(
        "throughput",
        "Throughput, stage by stage",
        "requests a second",
        stages=stages,
        parts=parts,
        finish=finish,
        ends=parts["answered well"],
    )


def by_part(
    name: str,
    title: str,
    unit: str,
    stages: Sequence[Stage],
    *,
    totals: Callable[[Stage], Mapping[str, float]],
    scale: float = 1,
    among: Sequence[str] = (),
) -> Chart | None:
    """What each part (a node, a process kind, a kind of error) had to do, for each request.

    `among` are all parts that pictures beside this one have, so that each looks the same in all of them.
    """
    keys = sorted({*among, *(key for stage in stages for key in totals(stage))})
    parts = {
        key: [(stage.per_request(totals(stage).get(key, 0.0)) or 0.0) * scale for stage in stages]
        for key in keys
    }
    if not any(any(values) for values in parts.values()):
        return None
    return stacked(name, title, unit, stages=stages, parts=parts)


def over_time(stages: Sequence[Stage]) -> Chart | None:
    """p50 and p99 of each second, one above the other, on one axis of time."""
    if not any(positive(second.p99_ms) or positive(second.p50_ms) for s in stages for second in s.over_time):
        return None

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, label, of in ((upper, "p99", attrgetter("p99_ms")), (lower, "p50", attrgetter("p50_ms"))):
            for n, stage in enumerate(stages):
                points = [(s.second, value) for s in stage.over_time if (value := positive(of(s)))]
                if points:
                    xs, ys = zip(*points, strict=True)
                    axes.plot(xs, ys, **line_look(n), markevery=max(1, len(points) // 8), label=stage.name)
            logarithmic(axes, "y", f"{label} of each second, ms")
        lower.set_xlabel("seconds since the stage began (after its warm-up)")
        legend(figure, 5, upper)

    told = "; ".join(
        f"{stage.name}: p99 of a second between {milliseconds(min(values))} and {milliseconds(max(values))} ms"
        for stage in stages
        if (values := [second.p99_ms for second in stage.over_time if second.p99_ms is not None])
    )
    return draw("over-time", "Latency over time", told, paint, 5.5)


def percentiles(stages: Sequence[Stage]) -> Chart | None:
    """Every percentile, on an axis of 1/(1-p): each nine takes as much room as the one before."""
    curves = [
        [(1 / (1 - p / 100), ms) for p, ms in stage.percentiles if 0 <= p < _ALL and ms > 0]
        for stage in stages
    ]
    if not any(curves):
        return None
    farthest = max(x for curve in curves for x, _ in curve)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for n, (stage, curve) in enumerate(zip(stages, curves, strict=True)):
            if curve:
                xs, ys = zip(*curve, strict=True)
                axes.plot(xs, ys, **line_look(n), label=stage.name)
        axes.set_xscale("log")
        ticks = [p for p in _PERCENTILES if p in _LABELLED and 1 / (1 - p / 100) <= farthest * 1.01] or [50.0]
        axes.set_xticks([1 / (1 - p / 100) for p in ticks], [f"{p:g} %" for p in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("percentile p, drawn at 1/(1 - p)")
        logarithmic(axes, "y", "latency, ms (logarithmic)")
        legend(figure, 5)

    told = "; ".join(
        f"{stage.name}: " + ", ".join(f"{p:g} % within {milliseconds(ms)} ms" for p, ms in stage.percentiles)
        for stage in stages
        if stage.percentiles
    )
    return draw("percentiles", "Latency by percentile", told, paint, 4.5)


def rounds(stages: Sequence[Stage]) -> Chart | None:
    """p99 of every round: how far the same thing, done again, came out differently."""
    if not any(positive(each.get("p99_ms")) for stage in stages for each in stage.rounds):
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        most = max(len(stage.rounds) for stage in stages)
        for n in range(most):
            points = [
                (value, row + (n - (most - 1) / 2) * 0.12)
                for row, stage in enumerate(stages)
                if n < len(stage.rounds) and (value := positive(stage.rounds[n].get("p99_ms")))
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                color, mark = SERIES[n % len(SERIES)], MARKS[n % len(MARKS)]
                axes.plot(xs, ys, linestyle="", marker=mark, color=color, label=f"round {n + 1}")
        logarithmic(axes, "x", "p99, ms (logarithmic)")
        name_rows(axes, [stage.name for stage in stages])
        legend(figure, 6)

    told = "; ".join(
        f"{stage.name}: " + ", ".join(milliseconds(each.get("p99_ms")) for each in stage.rounds) + " ms"
        for stage in stages
        if stage.rounds
    )
    return draw("rounds", "p99 of each round", told, paint, height_inches(stages))
