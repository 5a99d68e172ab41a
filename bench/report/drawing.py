"""What the pictures are made of.

Colour is never alone in telling things apart: lines have marks and dashes, bars have hatches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.report.numerals import plain
from bench.report.summary import Stage
from bench.report.svg import PAPER, SERIES, STYLE, as_svg

MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "\\\\\\", "|||", "---", "xxx", "+++", "//")
_WIDTH_INCHES = 9.0


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    description: str
    svg: str


def stacked(
    name: str,
    title: str,
    unit: str,
    *,
    stages: Sequence[Stage],
    parts: Mapping[str, Sequence[float]],
    finish: Callable[[Axes], None] = lambda _: None,
    ends: Sequence[float] = (),
) -> Chart:
    """A bar for each stage, in parts. `finish` adds to it; `ends`: the figures behind bars, if not their lengths."""
    looks: dict[str, dict[str, Any]] = {
        part: {"color": SERIES[n % len(SERIES)], "hatch": _HATCHES[n % len(_HATCHES)]}
        for n, part in enumerate(parts)
    }
    shown = {part: values for part, values in parts.items() if any(values)}
    totals = [sum(values[row] for values in shown.values()) for row in range(len(stages))]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        left = [0.0] * len(stages)
        for part, values in shown.items():
            axes.barh(
                range(len(stages)), values, left=left, height=0.6, edgecolor=PAPER, label=part, **looks[part]
            )
            left = [a + b for a, b in zip(left, values, strict=True)]
        for row, total in enumerate(totals):
            end = plain((ends or totals)[row])
            axes.annotate(end, (total, row), (5, 0), textcoords="offset points", va="center", size=8)
        finish(axes)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axes.set_xlim(0, max(*totals, 1e-9) * 1.12)
        name_rows(axes, [stage.name for stage in stages])
        legend(figure, 4)

    told = f"In {unit}. " + "; ".join(
        f"{stage.name}: " + ", ".join(f"{part} {plain(values[row])}" for part, values in shown.items())
        for row, stage in enumerate(stages)
    )
    return draw(name, title, told, paint, height_inches(stages, len(shown)))


def draw(name: str, title: str, description: str, paint: Callable[[Figure], None], height: float) -> Chart:
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A letter that matplotlib's font lacks is only measured by it; the reader's browser draws it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        paint(figure)
        return Chart(title, description, as_svg(figure, f"chart-{name}", title, description))


def height_inches(stages: Sequence[Stage], parts: int = 1) -> float:
    return 1.2 + 0.5 * len(stages) + 0.25 * (parts // 4)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """One row for each stage, the first on top."""
    axes.set_yticks(range(len(names)), [name if len(name) <= 40 else f"{name[:39]}…" for name in names])  # noqa: PLR2004
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def logarithmic(axes: Axes, which: str, label: str) -> None:
    axes.set(**{f"{which}scale": "log", f"{which}label": label})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high / low < 10:  # noqa: PLR2004 - within one decade only the lines between say where one is
        axis.set_minor_formatter(FuncFormatter(lambda value, _: plain(value)))
    else:
        axis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))


def line_look(n: int) -> dict[str, Any]:
    return {
        "color": SERIES[n % len(SERIES)],
        "linestyle": _DASHES[n % len(_DASHES)],
        "marker": MARKS[n % len(MARKS)],
        "markersize": 5,
    }


def legend(figure: Figure, columns: int, axes: Axes | None = None) -> None:
    """Below, outside the picture: it hides nothing."""
    entries, labels = (axes or figure.axes[0]).get_legend_handles_labels()
    if entries:
        figure.legend(entries, labels, loc="outside lower center", ncols=columns)


def positive(value: float | None) -> float | None:
    """What a logarithmic axis can show."""
    return value if value is not None and value > 0 else None
