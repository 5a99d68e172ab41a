"""The highest rate that a stage bears: p99 under 100 ms, no error, nothing dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.run.measure import Bench, one_line

SLOWEST_MS = 100.0
STAGE = "everything"
# From one step to the next while all goes well; and how near the highest good and the lowest bad rate come in the end.
_STEP, _NEAR = 1.3, 0.06
_KEPT = (
    "faults",
    "p50_ms",
    "p99_ms",
    "max_ms",
    "requests_per_second",
    "error_rate",
    "dropped_iterations",
    "cpu_ms_per_request",
    "cpu_seconds_of_others",
)


def find_limit(bench: Bench, rate: int, report: Callable[[str], object]) -> dict[str, Any]:
    """{stage, limit, steps}: `limit` is the step with the highest rate that was borne, or None."""
    good: dict[str, Any] | None = None
    bad_rate: int | None = None
    steps = []
    while True:
        step = {"rate": rate, **bench.measure(STAGE, rate)}
        step["borne"] = is_borne(step)
        steps.append({name: step[name] for name in ("rate", "borne", *_KEPT)})
        report(f"{rate}/s is {'borne' if step['borne'] else 'too much'}: {one_line(step)}")
        if step["borne"]:
            good = steps[-1]
        else:
            bad_rate = rate
        next_rate = following(good["rate"] if good else None, bad_rate)
        if next_rate is None:
            return {"stage": STAGE, "limit": good, "steps": steps}
        rate = next_rate


def following(good: int | None, bad: int | None) -> int | None:
    """The next rate to try, between the highest borne and the lowest not borne; None: they are near enough."""
    if bad is None:
        assert good is not None, "a first step has been tried"
        return round(good * _STEP)
    if good is None:
        return round(bad / _STEP) if bad > 1 else None
    return round((good + bad) / 2) if bad - good > _NEAR * good else None


def is_borne(found: Mapping[str, Any]) -> bool:
    p99 = found["p99_ms"]
    quick = p99 is not None and p99 < SLOWEST_MS
    return bool(quick and not found["error_rate"] and not found["dropped_iterations"] and not found["faults"])
