"""Figures as a person reads them."""

from __future__ import annotations

MISSING = "-"
_WHOLE_FROM = 10
_NOT_ALL_YET = 99.9


def plain(value: float | None) -> str:
    """Three digits that matter: 0.0123, 1.23, 12.3, 123, 12,345."""
    if value is None:
        return MISSING
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 - from here on whole numbers have three digits
        return f"{value:,.0f}"
    return f"{value:.3g}"


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    """Without its unit."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= _WHOLE_FROM else f"{value:.1f}"


def percent(part: float | None) -> str:
    """Of a part of one. What is not all does not read as all, and what is not nothing not as nothing."""
    if part is None:
        return MISSING
    value = part * 100
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.01:  # noqa: PLR2004 - the last digit shown
        return "below 0.01 %"
    if value > _NOT_ALL_YET:
        return "above 99.9 %"
    return f"{value:.2g} %" if value < _WHOLE_FROM else f"{value:.3g} %"


def volume(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return MISSING
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:  # noqa: PLR2004 - SI prefixes
            return f"{plain(value)} {unit}"
        value /= 1000
    return f"{plain(value)} GB"
