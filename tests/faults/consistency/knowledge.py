"""What each operation could count on when it began: the writes and reads in its past, by token and by credential."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.consistency.history import WRITES, Operation


@dataclass(frozen=True, slots=True)
class How:
    """By which operation something is known, and up to which version."""

    version: int
    by: Operation


@dataclass(slots=True)
class Known:
    """The newest version of each product, and the orders. What was written and what was only seen stand apart."""

    written: dict[str, How] = field(default_factory=dict)
    seen: dict[str, How] = field(default_factory=dict)

    def learn(self, operation: Operation) -> None:
        """Add what an answer told."""
        known = self.written if operation.kind in WRITES else self.seen
        for product, (version, _) in operation.found.items():
            _raise(known, product, How(version, operation))
        for order in operation.orders if operation.good else ():
            known.setdefault(order, How(0, operation))

    def join(self, other: Known) -> None:
        for mine, others in ((self.written, other.written), (self.seen, other.seen)):
            for name, how in others.items():
                _raise(mine, name, how)

    def copy(self) -> Known:
        return Known(dict(self.written), dict(self.seen))


def _raise(known: dict[str, How], name: str, how: How) -> None:
    before = known.get(name)
    if before is None or before.version < how.version:
        known[name] = how


class Past:
    """Walks the operations in the order of their numbers, which is the order in which they began."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._ending = [(each.ended, each.number, each) for each in operations]
        heapq.heapify(self._ending)
        self._by_credential: dict[str, Known] = defaultdict(Known)
        self._after: dict[int, Known] = {}  # operation → what its token stands for

    def before(self, operation: Operation) -> Known:
        """What this one must see. To be asked for each operation once, in their order."""
        while self._ending and self._ending[0][0] < operation.started:
            ended = heapq.heappop(self._ending)[2]
            # What was only seen is kept by the client where it carries a token, and for its credential where not.
            if ended.credential is not None and (ended.kind in WRITES or not ended.carried):
                self._by_credential[ended.credential].learn(ended)
        carried = Known()
        for number in operation.carried:
            carried.join(self._after[number])
        after = carried.copy()
        after.learn(operation)
        self._after[operation.number] = after
        if operation.credential is not None:
            carried.join(self._by_credential[operation.credential])
        return carried
