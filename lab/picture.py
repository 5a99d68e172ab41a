"""Figures as text, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lab.experiment import Found

_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def bars(figure: str, unit: str = "") -> Callable[[Sequence[Found]], str]:
    """A picture: for each variant a bar as long as this figure of it."""

    def draw(found: Sequence[Found]) -> str:
        values = [float(each.figures[figure]) for each in found]
        highest = max(*values, 1e-9)
        width = max(len(each.title) for each in found)
        return "\n".join(
            f"{each.title.ljust(width)}  {_bar(value / highest)} {value:,.4g}{unit and f' {unit}'}"
            for each, value in zip(found, values, strict=True)
        )

    return draw


def over_time(values: str, figure: str, unit: str = "") -> Callable[[Sequence[Found]], str]:
    """A picture: for each variant a line of columns, of a list among its figures, and one figure behind it."""

    def draw(found: Sequence[Found]) -> str:
        highest = max(max(each.figures[values], default=0) for each in found)
        width = max(len(each.title) for each in found)
        return "\n".join(
            f"{each.title.ljust(width)}  {columns(each.figures[values], highest)}"
            f"  {each.figures[figure]:,.4g}{unit and f' {unit}'}"
            for each in found
        )

    return draw


def columns(values: Sequence[float], highest: float | None = None) -> str:
    """One line, a column for each value: a figure over time."""
    top = max(highest or max(values, default=0), 1e-9)
    return "".join(
        _HEIGHTS[min(len(_HEIGHTS) - 1, round(value / top * (len(_HEIGHTS) - 1)))] for value in values
    )


def _bar(part: float) -> str:
    eighths = round(part * _WIDTH * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
