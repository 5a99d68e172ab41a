"""A process that makes hits, for `bench/limiter.py`: with this service's limiter, or with the package `limits`.

    python -m bench.limiter_hits URL KIND AHEAD_SECONDS

KIND is `ours`, `moving-window` or `sliding-window-counter`. Its clock goes so many seconds ahead. One order a line
comes in as JSON, one answer a line goes out. At the top it imports nothing that a Python with `limits` alone lacks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

# (name, quota, seconds)
Policy = tuple[str, int, int]
Hit = Callable[[Sequence[Policy]], bool]


def ours(url: str) -> Hit:
    from ephemeral.client import connect  # noqa: PLC0415
    from ephemeral.limiter import Limit, Limiter, Policy  # noqa: PLC0415
    from ephemeral.round_trip import RoundTrips  # noqa: PLC0415

    limiter = Limiter(RoundTrips(connect(url)), 1)

    def hit(policies: Sequence[tuple[str, int, int]]) -> bool:
        decided = limiter.decide([Limit(Policy(*policy), "somebody") for policy in policies])
        if not decided.shared:
            raise SystemExit("the server did not answer in time")
        return decided.admitted

    return hit


def theirs(url: str, kind: str) -> Hit:
    """As one uses them for several policies and the headers: each is hit, then asked for its state."""
    limits, strategies = import_module("limits"), import_module("limits.strategies")
    strategy = {
        "moving-window": "MovingWindowRateLimiter",
        "sliding-window-counter": "SlidingWindowCounterRateLimiter",
    }
    limiter = getattr(strategies, strategy[kind])(import_module("limits.storage").storage_from_string(url))

    def hit(policies: Sequence[Policy]) -> bool:
        for name, quota, seconds in policies:
            item = limits.RateLimitItemPerSecond(quota, seconds)
            if not limiter.hit(item, "somebody", name):
                return False
            if len(policies) > 1:
                limiter.get_window_stats(item, "somebody", name)
        return True

    return hit


def count_trips() -> list[int]:
    """A list that grows with every packet sent to a server from now on."""
    connection = import_module("redis.connection").AbstractConnection
    sent: list[int] = []
    send = connection.send_packed_command

    def counted(self: Any, command: Any, *rest: Any, **named: Any) -> Any:
        sent.append(1)
        return send(self, command, *rest, **named)

    connection.send_packed_command = counted
    return sent


def main() -> None:
    url, kind, ahead = sys.argv[1], sys.argv[2], float(sys.argv[3])
    true_time = time.time
    time.time = lambda: true_time() + ahead
    sent = count_trips()
    hit = ours(url) if kind == "ours" else theirs(url, kind)
    for line in sys.stdin:
        order = json.loads(line)
        policies = [tuple(policy) for policy in order["policies"]]
        before, began, cpu, admitted = len(sent), time.perf_counter(), time.process_time(), 0
        for _ in range(order["times"]):
            admitted += hit(policies)
            if order.get("pause_seconds"):
                time.sleep(order["pause_seconds"])
        seconds = time.perf_counter() - began
        spent = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "trips": len(sent) - before}
        print(json.dumps({"admitted": admitted} | spent), flush=True)


if __name__ == "__main__":
    main()
