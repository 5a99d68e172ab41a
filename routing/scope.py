"""What one request knows about consistency and gathers on its way: passed as an argument, never a global."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from flags import Flags
from routing.route import Route
from routing.token import Position


@dataclass(slots=True)
class Scope:
    """One request's snapshot and its trail.

    `flags` is read once, when the request begins. `positions` are the writes that the request must see, by the
    cluster's system identifier: those its consistency token names, then its own. `seconds` says where the time went,
    by the names of `Server-Timing`.
    """

    flags: Flags
    positions: dict[int, Position] = field(default_factory=dict)
    route: Route | None = None
    served_by: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    encode_positions: Callable[[Mapping[int, Position]], str] = str

    def spent(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.spent(name, perf_counter() - started)

    def answered(self, node: str) -> None:
        if node not in self.served_by:
            self.served_by = (*self.served_by, node)
