"""How many requests somebody may make: exact sliding windows, in the server that all workers share.

Never more than `quota` requests are admitted in any window of `window_seconds`, by that server's clock, whichever
workers admit them (`lua/limiter_decide.lua`). All policies of a request are decided in one round trip: where one
refuses, none has counted it.

Without that server each worker goes on in its own memory, with the quota divided by the number of workers, until it
answers again. What was counted on one side is not known on the other, so in the window around such a change up to twice
the quota may be admitted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from time import monotonic

from ephemeral.client import EphemeralUnavailable
from ephemeral.round_trip import Reply, RoundTrips
from ephemeral.scripts import Call, Script

# One hash tag for everybody: a request's policies count somebody (a session of any store, an address in all stores) and
# a store, and one script decides them together, so on a Redis Cluster all of them have to be on one node.
_KEY = "limit:{limits}:"

DECIDE = Script("limiter_decide")

# Whom a worker remembers while it is on its own. Who is forgotten begins anew.
REMEMBERED_LOGS = 10_000


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `quota` requests in any `window_seconds`, for each of those it is about."""

    name: str  # as clients see it: "session", "store"
    quota: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Limit:
    """A policy, and whom it is to count: a session's id, an address."""

    policy: Policy
    whom: str

    @property
    def key(self) -> str:
        return f"{_KEY}{self.policy.name}:{self.whom}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request has left a policy: how many more fit, and how long nothing is given back.

    `wait_seconds` is whole and rounded up: in that time no more than `remaining` are admitted; where nothing remains,
    the next one is admitted after it.
    """

    policy: Policy
    remaining: int
    wait_seconds: int
    refused: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """One request's: admitted where no policy refused. `shared`: by all workers together, not by this one alone."""

    admitted: bool
    standings: tuple[Standing, ...]
    shared: bool

    @property
    def tightest(self) -> Standing:
        """The policy a client has to heed first: of those that refuse the one that does so longest."""
        return max(
            self.standings,
            key=lambda each: (each.refused, each.refused and each.wait_seconds, -each.remaining),
        )


class Limiter:
    """Decides requests. For any number of greenlets or threads; one for each of `workers` processes."""

    def __init__(self, server: RoundTrips, workers: int, clock: Callable[[], float] = monotonic) -> None:
        self._server = server
        self._alone = WorkerWindows(workers, clock)

    def decide(self, limits: Sequence[Limit]) -> Decision:
        """Count one request in all of its limits, or in none. Sent twice, over a connection that broke, it may count
        twice: rather too much than too little."""
        try:
            (reply,) = self._server.ask(self.question(limits))
        except EphemeralUnavailable:
            return self.hear(limits, None)
        return self.hear(limits, reply)

    @staticmethod
    def question(limits: Sequence[Limit]) -> Call:
        """What to ask the server, perhaps beside something else, so that `hear` can decide."""
        arguments: list[int] = []
        for limit in limits:
            arguments += limit.policy.quota, limit.policy.window_seconds * 1000
        return DECIDE([limit.key for limit in limits], *arguments)

    def hear(self, limits: Sequence[Limit], reply: Reply | None) -> Decision:
        """The decision, from the reply to the `question`; None: there was none."""
        if reply is not None and isinstance(reply.value, list):
            return _decision(limits, reply.value, shared=True)
        # Away; or there and refusing: full, or a replica by now.
        return _decision(limits, self._alone.decide(limits), shared=False)


class WorkerWindows:
    """The same decision in this process's memory, with each quota's share for one of `workers`; at least 1."""

    def __init__(self, workers: int, clock: Callable[[], float]) -> None:
        self._workers = max(workers, 1)
        self._clock = clock
        self._lock = threading.Lock()
        # Least lately used first.
        self._logs: OrderedDict[str, deque[float]] = OrderedDict()

    def decide(self, limits: Sequence[Limit]) -> list[int]:
        """What `lua/limiter_decide.lua` returns."""
        with self._lock:
            now = self._clock()
            logs = [self._log(limit, now) for limit in limits]
            quotas = [max(limit.policy.quota // self._workers, 1) for limit in limits]
            admitted = all(len(log) < quota for log, quota in zip(logs, quotas, strict=True))
            answer = [int(admitted)]
            for limit, log, quota in zip(limits, logs, quotas, strict=True):
                if admitted:
                    log.append(now)
                oldest = log[0] if log else now
                answer += quota - len(log), ceil((oldest + limit.policy.window_seconds - now) * 1000)
            return answer

    def _log(self, limit: Limit, now: float) -> deque[float]:
        log = self._logs.setdefault(limit.key, deque())
        self._logs.move_to_end(limit.key)
        while log and now - log[0] > limit.policy.window_seconds:
            log.popleft()
        if len(self._logs) > REMEMBERED_LOGS:
            self._logs.popitem(last=False)
        return log


def _decision(limits: Sequence[Limit], answer: Sequence[int], *, shared: bool) -> Decision:
    admitted = answer[0] == 1
    standings = tuple(
        Standing(
            limit.policy,
            remaining,
            max(ceil(milliseconds / 1000), 1),
            refused=not admitted and remaining == 0,
        )
        for limit, remaining, milliseconds in zip(limits, answer[1::2], answer[2::2], strict=True)
    )
    return Decision(admitted, standings, shared)
