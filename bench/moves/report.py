"""What was measured, as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles
from typing import Any

from bench.moves.load import READS, WRITES, Load, Sample
from bench.moves.watch import STILL, Watch
from bench.table import table

_KINDS = (("reads", READS), ("writes", WRITES), ("all", READS + WRITES))


@dataclass(frozen=True, slots=True)
class Pause:
    """When writes of the store waited, by the wall clock."""

    began: float
    ended: float

    @classmethod
    def of(cls, move: dict[str, Any]) -> Pause:
        ended = datetime.fromisoformat(move["finished_at"]).timestamp()
        return cls(ended - move["write_pause_ms"] / 1000, ended)

    def meets(self, sample: Sample) -> bool:
        return sample.began < self.ended and sample.ended > self.began


def report(moves: Sequence[dict[str, Any]], moving: Load, others: Sequence[Load], watch: Watch) -> str:
    pauses = [Pause.of(move) for move in moves]
    met = [[one for one in moving.samples if one.kind in WRITES and pause.meets(one)] for pause in pauses]
    shares = [100 * move["verify_ms"] / move["write_pause_ms"] for move in moves]
    waited = [sample.milliseconds for samples in met for sample in samples]
    longest = [max(sample.milliseconds for sample in samples) for samples in met if samples]
    pause_rows = [
        ("pause by the mover, ms", *_cuts(move["write_pause_ms"] for move in moves)),
        ("of it for comparing, %", *_cuts(shares)),
        ("writes that met a pause, as the client saw them, ms", *_cuts(waited)),
        ("the longest of each pause", *_cuts(longest)),
    ]
    samples = [sample for load in others for sample in load.samples]
    heads = ("", "p50", "p99", "worst", "number")
    return "\n\n".join(
        (
            table(heads, pause_rows),
            table(
                ("other stores, ms", "p50", "p99", "worst", "number", "p99 to still"),
                list(_against_still(samples, watch)),
            ),
            table(
                ("other stores by phase, ms", "p50", "p99", "worst", "number", "seconds"),
                list(_by_phase(samples, watch)),
            ),
        )
    )


def _against_still(samples: Sequence[Sample], watch: Watch) -> Iterable[tuple[object, ...]]:
    for name, kinds in _KINDS:
        of_kind = [sample for sample in samples if sample.kind in kinds]
        still = [one.milliseconds for one in of_kind if _is_still(one, watch)]
        moving = [one.milliseconds for one in of_kind if not _is_still(one, watch)]
        ratio = f"{_p99(moving) / _p99(still):.2f}" if still and moving else ""
        yield f"{name}, nothing moves", *_cuts(still), "1"
        yield f"{name}, a store moves", *_cuts(moving), ratio


def _by_phase(samples: Sequence[Sample], watch: Watch) -> Iterable[tuple[object, ...]]:
    for phase, seconds in watch.spent().items():
        for name, kinds in _KINDS[:2]:
            found = [
                one.milliseconds for one in samples if one.kind in kinds and watch.at(one.began) == phase
            ]
            yield f"{name}, {phase}", *_cuts(found), f"{seconds:.1f}"


def _is_still(sample: Sample, watch: Watch) -> bool:
    return watch.at(sample.began) == watch.at(sample.ended) == STILL


def _p99(values: Sequence[float]) -> float:
    return _percentile(values)(99)


def _percentile(values: Sequence[float]) -> Callable[[int], float]:
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else list(values) * 99
    return lambda percent: cuts[percent - 1]


def _cuts(values: Iterable[float]) -> tuple[object, ...]:
    found = list(values)
    if not found:
        return "", "", "", 0
    at = _percentile(found)
    return f"{at(50):.1f}", f"{at(99):.1f}", f"{max(found):.1f}", len(found)
