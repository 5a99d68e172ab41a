"""What one request knows about consistency and gathers on its way: passed as an argument, never a global."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, Protocol
from uuid import UUID

from ephemeral.round_trip import Reply
from ephemeral.scripts import Call
from flags import Flags
from routing.route import Route
from routing.token import Position, merge

CacheResult = Literal["hit", "miss", "bypass"]


@dataclass(frozen=True, slots=True)
class ReadBounds:
    """What a read has certainly seen, on the timeline of the node it was read from, and what at most.

    `at_least` was known before the read's snapshot was taken, `at_most` after. `lag_seconds`: how far the node was
    behind.
    """

    at_least: Position
    at_most: Position
    lag_seconds: float = 0.0


class Admission(Protocol):
    """Whether the request fits into its quotas, still to be asked: beside the first thing that it asks Redis, or alone.

    `hear` and `settle` raise `TooManyRequests` where it does not.
    """

    @property
    def question(self) -> Call: ...

    def hear(self, reply: Reply | None) -> None:
        """Decide by the reply to the question; None: there was none."""

    def settle(self) -> None:
        """Ask it alone."""


@dataclass(slots=True)
class Scope:
    """One request's snapshot and its trail.

    `flags` is read once, when the request begins. `positions` are what the request must see, by the cluster's system
    identifier: what its consistency token names, what is remembered for its credential, then its own writes and reads.
    `floors` must be seen as well, but are nobody's writes in particular. `seconds` says where the time went, by the
    names of `Server-Timing`.
    """

    flags: Flags
    positions: dict[int, Position] = field(default_factory=dict)
    floors: Mapping[int, Position] = field(default_factory=dict)
    credential: str | None = None  # the text of a session token or merchant key that came with the request
    carries_token: bool = False  # the client keeps what it is told to have seen
    admission: Admission | None = None  # nothing is done for the request before it is settled
    recalled: bool | None = (
        None  # whether what its credential has seen is in `positions`; None: not asked for yet
    )
    raised: bool = False  # `positions` have gone further than they were
    wrote: bool = False
    written: Position | None = None  # behind the request's latest write
    asks_bounds: bool = False  # its reads are to say how much they have seen, in `bounds`
    bounds: ReadBounds | None = None
    cache: CacheResult = "bypass"
    store_id: UUID | None = None  # whose load the request is
    route: Route | None = None
    statements: int = 0  # sent to PostgreSQL; a write's packet counts as one
    served_by: tuple[str, ...] = ()
    sent: list[tuple[str, str, float]] = field(default_factory=list)  # query, node, seconds; for the log
    seconds: dict[str, float] = field(default_factory=dict)
    encode_positions: Callable[[Mapping[int, Position]], str] = str

    def settle(self) -> None:
        """Ask now whether the request is admitted, if that is still open. Raises `TooManyRequests`."""
        admission = self.take_admission()
        if admission is not None:
            with self.timed("limit"):
                admission.settle()

    def take_admission(self) -> Admission | None:
        """For who asks it beside something else, and then hears it whatever came of that."""
        admission, self.admission = self.admission, None
        return admission

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

    def reached(self, position: Position) -> None:
        """The request has seen, or written, what lies up to there: so must whoever comes after it."""
        known = self.positions.get(position.system_identifier)
        if known is None or (position.timeline, position.lsn) > (known.timeline, known.lsn):
            self.positions = merge(self.positions, {position.system_identifier: position})
            self.raised = True
