"""From several rounds of a stage to one: medians, and how far the rounds lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

# Series belong to one round: that whose p99 is the median's nearest.
_OF_ONE_ROUND = ("over_time",)
# A wrong answer in one of three rounds is one too many: these are added up.
_ADDED_UP = ("errors", "wrong_answers")
_OWN = ("flags", "faults", "percentiles", "rounds", "spread")

# What is kept of each round.
MAIN = (
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "p999_ms",
    "max_ms",
    "requests",
    "requests_per_second",
    "good_requests_per_second",
    "error_rate",
    "dropped_iterations",
    "wrong_answers",
    "insufficient_stock",
    "cache_hit_rate",
    "cpu_seconds",
    "cpu_seconds_of_others",
    "cpu_ms_per_request",
    "statements_per_request",
    "pool_wait_ms",
    "kinds",
)


def stage(name: str, flags: Mapping[str, bool], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A stage as summary.json has it, from what each of its rounds found. At least one round."""
    kept = [{figure: found[figure] for figure in MAIN if figure in found} for found in rounds]
    medians = {
        figure: middle([found[figure] for found in rounds])
        for figure in rounds[0]
        if figure not in (*_OF_ONE_ROUND, *_ADDED_UP, *_OWN)
    }
    typical = min(rounds, key=lambda found: abs((found["p99_ms"] or 0) - (medians["p99_ms"] or 0)))
    several = len(rounds) > 1
    return {
        "name": name,
        "flags": dict(flags),
        **medians,
        **{figure: typical[figure] for figure in _OF_ONE_ROUND},
        "wrong_answers": sum(found["wrong_answers"] for found in rounds),
        "errors": added_up([found["errors"] for found in rounds]),
        "percentiles": [
            [percent, middle([found["percentiles"][n][1] for found in rounds])]
            for n, (percent, _) in enumerate(rounds[0]["percentiles"])
        ],
        "rounds": kept,
        "spread": {
            figure: [min(values), max(values)] for figure, values in sorted(series(kept).items()) if values
        },
        "faults": [
            f"round {n}: {fault}" if several else fault
            for n, found in enumerate(rounds, 1)
            for fault in found["faults"]
        ],
    }


def middle(values: Sequence[Any]) -> Any:
    """The median; of objects, of each of their values. None is no value; of nothing but None, None."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, Mapping) for value in present):
        names = list(dict.fromkeys(name for value in present for name in value))
        # What did not occur in a round occurred in it not at all; a time that was not measured is none.
        return {name: middle([value.get(name) for value in present]) for name in names}
    return median(present) if present else None


def added_up(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {
        name: sum(count.get(name, 0) for count in counts)
        for name in dict.fromkeys(name for count in counts for name in count)
    }


def series(rounds: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The values of each figure, round by round; one within an object is named by its path: `cpu_seconds.http`."""
    found: dict[str, list[float]] = {}
    for values in rounds:
        for name, value in _flat(values):
            found.setdefault(name, []).append(value)
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found.append((f"{prefix}{name}", value))
    return found
