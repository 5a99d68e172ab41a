"""Whether one stage differs from another, or whether that is noise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench.report.summary import Range, Stage

# Below this even medians of quiet rounds differ for reasons that nobody cares about.
LEAST_PART = 0.05
HIGHER_IS_BETTER = frozenset({"requests_per_second", "good_requests_per_second"})


class Verdict(Enum):
    BETTER = "better"
    WORSE = "worse"
    NOISE = "within noise"
    UNKNOWN = "noise unknown"


@dataclass(frozen=True, slots=True)
class Difference:
    before: float
    after: float
    verdict: Verdict

    @property
    def rose(self) -> bool:
        return self.after > self.before

    @property
    def factor(self) -> float | None:
        """The larger by the smaller; None where the smaller is nothing."""
        smaller, larger = sorted((self.before, self.after))
        return larger / smaller if smaller > 0 else None


def difference(before: Stage, after: Stage, figure: str) -> Difference | None:
    """None where one of them has no such figure.

    A difference is one when no round of one stage lies within the range of the other's rounds, and the medians are a
    twentieth apart or more. With fewer than two rounds of both there is no range, and no verdict either.
    """
    a, b = before.get(figure), after.get(figure)
    if a is None or b is None:
        return None
    ranges = before.range_of(figure), after.range_of(figure)
    if ranges[0] is None or ranges[1] is None:
        return Difference(a, b, Verdict.UNKNOWN)
    if _overlap(ranges[0], ranges[1]) or abs(b - a) < LEAST_PART * max(abs(a), abs(b)):
        return Difference(a, b, Verdict.NOISE)
    better = (b > a) == (figure in HIGHER_IS_BETTER)
    return Difference(a, b, Verdict.BETTER if better else Verdict.WORSE)


def _overlap(one: Range, other: Range) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
