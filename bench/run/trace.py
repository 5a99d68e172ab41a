"""The lines that k6/trace.js writes, and the figures in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.run.integrity import Told

PERCENTS = (50, 75, 90, 95, 99, 99.5, 99.9, 99.99)
_SENT_FIELDS = 12
# k6's own numbers for what was no answer (its manual, "Error codes").
_CODES = {
    "1050": "timeout",
    "1212": "connection refused",
    "1220": "connection reset",
    "1211": "connect timeout",
}
_SERVER_ERROR, _CLIENT_ERROR, _CREATED = 500, 400, 201


@dataclass(frozen=True, slots=True)
class Request:
    """`at`: seconds of the wall clock. `cache`, `node`, `wait_ms`: None where the answer does not say."""

    scenario: str
    kind: str
    at: float
    status: int
    took_ms: float
    code: str
    verdict: str
    cache: str | None
    node: str | None
    wait_ms: float | None

    @property
    def error(self) -> str | None:
        """What kind of error it is: a status, what befell the connection, or a wrong answer."""
        if self.verdict != "wrong":
            return None
        if self.status == 0:
            return _CODES.get(self.code, f"k6 error {self.code}")
        return str(self.status) if self.status >= _CLIENT_ERROR else "wrong answer"


@dataclass(slots=True)
class Trace:
    requests: list[Request] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    others: list[str] = field(default_factory=list)  # what k6 itself had to say


def read(lines: Iterable[str]) -> Trace:
    placed: set[str] = set()
    sent = refused = 0
    trace = Trace()
    for line in lines:
        what, *fields = line.rstrip("\n").split("\t")
        if what == "request" and len(fields) == _SENT_FIELDS - 1:
            scenario, kind, at, status, took, code, verdict, cache, node, wait, order = fields
            trace.requests.append(
                Request(
                    scenario,
                    kind,
                    float(at) / 1000,
                    int(status),
                    float(took),
                    code,
                    verdict,
                    None if cache == "-" else cache,
                    None if node == "-" else node,
                    None if wait == "-" else float(wait),
                )
            )
            if order != "-":
                placed.add(order)
            elif kind == "place order" and _CLIENT_ERROR <= int(status) < _SERVER_ERROR:
                refused += 1
        elif what == "begun":
            sent += 1
        elif what == "placed":
            placed.add(fields[0])
            sent += 1
        elif what != "prepared" and line.strip():
            trace.others.append(line.strip())
    trace.told = Told(frozenset(placed), sent, refused)
    return trace


def quantile(ordered: Sequence[float], percent: float) -> float | None:
    """Of values in order, between the two nearest in proportion, as k6 does; None of nothing."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def latencies(requests: Sequence[Request]) -> dict[str, float | int | None]:
    took = sorted(request.took_ms for request in requests)
    return {
        "requests": len(took),
        "p50_ms": quantile(took, 50),
        "p95_ms": quantile(took, 95),
        "p99_ms": quantile(took, 99),
        "max_ms": took[-1] if took else None,
    }


def figures(requests: Sequence[Request], duration_seconds: float, began: float) -> dict[str, Any]:
    """All that the answers of one measurement say, as summary.json has it. `began`: on the wall clock."""
    took = sorted(request.took_ms for request in requests)
    errors = Counter(error for request in requests if (error := request.error))
    waits = sorted(request.wait_ms for request in requests if request.wait_ms is not None)
    looked = Counter(request.cache for request in requests if request.cache in ("hit", "miss"))
    kinds = sorted({request.kind for request in requests})
    return {
        **latencies(requests),
        "p999_ms": quantile(took, 99.9),
        "requests_per_second": len(requests) / duration_seconds,
        "good_requests_per_second": (len(requests) - errors.total()) / duration_seconds,
        "error_rate": errors.total() / len(requests) if requests else 0.0,
        "errors": dict(errors),
        "wrong_answers": errors["wrong answer"],
        "insufficient_stock": sum(request.verdict == "short" for request in requests),
        "cache_hit_rate": looked["hit"] / looked.total() if looked else None,
        "served_by": dict(Counter(request.node for request in requests if request.node)),
        "pool_wait_ms": {"p50": quantile(waits, 50), "p99": quantile(waits, 99)},
        "kinds": {
            kind: latencies([request for request in requests if request.kind == kind]) for kind in kinds
        },
        "over_time": _over_time(requests, began, math.ceil(duration_seconds)),
        "percentiles": [[percent, quantile(took, percent)] for percent in PERCENTS],
    }


def _over_time(requests: Sequence[Request], began: float, count: int) -> list[dict[str, Any]]:
    """By the second in which a request was sent; k6's clock begins a few milliseconds after `began`."""
    by_second: dict[int, list[Request]] = {}
    for request in requests:
        by_second.setdefault(min(max(0, int(request.at - began)), count - 1), []).append(request)
    return [
        {
            "second": second,
            "requests": len(found),
            "p50_ms": latencies(found)["p50_ms"],
            "p99_ms": latencies(found)["p99_ms"],
            "errors": sum(request.error is not None for request in found),
        }
        for second, found in sorted(by_second.items())
    ]
