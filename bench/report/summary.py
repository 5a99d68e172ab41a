"""`summary.json` as frozen values. No field but `stages` needs to be there, and what is no figure counts as missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Range = tuple[float, float]

# A petabyte, or thirty thousand years in ms: nothing that a benchmark measures is larger.
_NO_FIGURE = 1e15


class SummaryError(Exception):
    """There is no summary, or it is none."""


@dataclass(frozen=True, slots=True)
class Second:
    second: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: medians of its rounds, and of the errors and wrong answers the sums.

    Figures by node and by process kind are of one round, not divided by anything.
    """

    name: str
    figures: Mapping[str, float]
    statements: Mapping[str, float]
    rows: Mapping[str, float]
    wal_bytes: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    cpu_seconds_by_node: Mapping[str, float]
    throttled_seconds: Mapping[str, float]
    errors: Mapping[str, float]
    replica_lag_bytes: Mapping[str, float]
    pool_wait_ms: Mapping[str, float]
    kinds: Mapping[str, Mapping[str, float]]
    over_time: Sequence[Second]
    percentiles: Sequence[tuple[float, float]]
    rounds: Sequence[Mapping[str, float]]
    spread: Mapping[str, Range]
    flags: Mapping[str, bool]
    faults: Sequence[str]

    def get(self, figure: str) -> float | None:
        return self.figures.get(figure)

    @property
    def errors_by_share(self) -> Mapping[str, float]:
        """As `errors`, which are of all rounds together, but as many as a single round had."""
        together = sum(self.errors.values())
        all_errors = (self.get("error_rate") or 0.0) * self.requests
        return {kind: n / together * all_errors for kind, n in self.errors.items()} if together else {}

    @property
    def database_cpu_seconds(self) -> Mapping[str, float]:
        """Of the nodes that run statements, where it is known which do: beside the service's CPU theirs is not seen."""
        nodes = self.statements or self.cpu_seconds_by_node
        return {node: spent for node, spent in self.cpu_seconds_by_node.items() if node in nodes}

    @property
    def requests(self) -> float:
        return self.figures.get("requests", 0.0)

    @property
    def seconds(self) -> float | None:
        """How long it was measured."""
        rate = self.figures.get("requests_per_second")
        return self.requests / rate if rate else None

    @property
    def answered(self) -> bool:
        """Whether a request had an answer whose time counts."""
        return self.get("p50_ms") is not None and self.get("error_rate") != 1

    def range_of(self, figure: str) -> Range | None:
        """From the lowest to the highest round; None with fewer than two."""
        values = [each[figure] for each in self.rounds if figure in each]
        if len(values) > 1:
            return min(values), max(values)
        return self.spread.get(figure) if len(self.rounds) != 1 else None

    def per_request(self, total: float) -> float | None:
        return total / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Summary:
    commit: str
    started_at: str
    machine: Any
    versions: Any
    settings: Mapping[str, Any]
    stages: Sequence[Stage]

    @property
    def rate(self) -> float | None:
        """Requests a second that were asked for."""
        return number(self.settings.get("rate"))


def read_summary(path: Path) -> Summary:
    try:
        document = _printable(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SummaryError(f"{path}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("stages"), list):
        raise SummaryError(f"{path}: there are no stages in it")
    return Summary(
        commit=_text(document.get("commit")),
        started_at=_text(document.get("started_at")),
        machine=document.get("machine"),
        versions=document.get("versions"),
        settings=_mapping(document.get("settings")),
        stages=[_stage(each, n) for n, each in enumerate(document["stages"], 1) if isinstance(each, dict)],
    )


def number(value: object) -> float | None:
    """A number that may be a figure, else None: not a truth value, not text, and none that no axis could hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _NO_FIGURE:
        return None  # not a number is not below anything, either
    return float(value)


def _printable(found: Any) -> Any:
    """Without control characters, which neither HTML nor SVG can hold."""
    if isinstance(found, str):
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in found)
    if isinstance(found, dict):
        return {_printable(key): _printable(value) for key, value in found.items()}
    return [_printable(each) for each in found] if isinstance(found, list) else found


def _stage(found: Mapping[str, Any], place: int) -> Stage:
    return Stage(
        name=_text(found.get("name")) or f"stage {place}",
        figures=_numbers(found),
        statements=_numbers(found.get("statements")),
        rows=_numbers(found.get("rows")),
        wal_bytes=_numbers(found.get("wal_bytes")),
        cpu_seconds=_numbers(found.get("cpu_seconds")),
        cpu_seconds_by_node=_numbers(found.get("cpu_seconds_by_node")),
        throttled_seconds={n: s for n, s in _numbers(found.get("throttled_seconds")).items() if s > 0},
        errors={kind: n for kind, n in _numbers(found.get("errors")).items() if n > 0},
        replica_lag_bytes=_numbers(found.get("replica_lag_bytes")),
        pool_wait_ms=_numbers(found.get("pool_wait_ms")),
        kinds={str(kind): _numbers(of) for kind, of in _mapping(found.get("kinds")).items()},
        over_time=_over_time(found.get("over_time")),
        percentiles=_percentiles(found.get("percentiles")),
        rounds=[_numbers(each) for each in _list(found.get("rounds"))],
        spread=_ranges(found.get("spread")),
        flags={str(name): on for name, on in _mapping(found.get("flags")).items() if isinstance(on, bool)},
        faults=[_text(fault) for fault in _list(found.get("faults"))],
    )


def _over_time(found: object) -> list[Second]:
    seconds = []
    for each in _list(found):
        at = number(each.get("second")) if isinstance(each, dict) else None
        if at is not None:
            seconds.append(Second(at, number(each.get("p50_ms")), number(each.get("p99_ms"))))
    return sorted(seconds, key=lambda second: second.second)


def _percentiles(found: object) -> list[tuple[float, float]]:
    return sorted(pair for each in _list(found) if (pair := _pair(each)))


def _ranges(found: object) -> dict[str, Range]:
    return {str(figure): pair for figure, ends in _mapping(found).items() if (pair := _pair(ends))}


def _pair(found: object) -> tuple[float, float] | None:
    match [number(part) for part in _list(found)]:
        case [float(one), float(other)]:
            return one, other
    return None


def _numbers(found: object) -> dict[str, float]:
    pairs = ((str(name), number(value)) for name, value in _mapping(found).items())
    return {name: value for name, value in pairs if value is not None}


def _mapping(found: object) -> Mapping[Any, Any]:
    return found if isinstance(found, dict) else {}


def _list(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


def _text(found: object) -> str:
    return found if isinstance(found, str) else "" if found is None else json.dumps(found)
