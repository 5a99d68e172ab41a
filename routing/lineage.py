"""The history of a shard's timelines: which positions of the past are part of what its primary has now.

Every promotion begins a new timeline, and leaves the one before at one point, the fork. What was written on the old
timeline behind the fork is lost. Its positions are numbers all the same, and the new timeline soon reaches higher
ones: comparing numbers across timelines would call a lost row "replayed". So a position is judged before it is
compared, by the history that PostgreSQL itself keeps with each timeline.

Source: https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from routing.token import Position


class Verdict(Enum):
    """What a position is to a lineage."""

    KEPT = "kept"  # part of it: a node on this lineage has it once it has replayed so far
    LOST = "lost"  # written on a timeline that was left before: no node will ever have it
    NEWER = "newer"  # of a timeline that is not known here yet: a promotion that others have seen


@dataclass(frozen=True, slots=True)
class Lineage:
    """One timeline of one cluster, with the forks that led to it: timeline → the position at which it was left."""

    system_identifier: int
    timeline: int
    forks: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, system_identifier: int, timeline: int, history: str | None) -> Lineage:
        """From a timeline's history file: lines of timeline, position and reason, divided by tabs.

        Raises `ValueError` where it is not one. Timeline 1 has no file: `history` is None.
        """
        forks = {}
        for line in (history or "").splitlines():
            text = line.partition("#")[0].strip()
            if text:
                parent, left_at, *_ = text.split("\t")
                high, _, low = left_at.partition("/")
                forks[int(parent)] = (int(high, 16) << 32) | int(low, 16)
        if timeline > 1 and not forks:
            raise ValueError(f"timeline {timeline} has no history")
        return cls(system_identifier, timeline, forks)

    def judge(self, position: Position) -> Verdict:
        """Whether the position is part of this lineage; of another cluster's position, that it is not: lost."""
        if position.system_identifier != self.system_identifier:
            return Verdict.LOST
        if position.timeline == self.timeline:
            return Verdict.KEPT
        if position.timeline > self.timeline:
            return Verdict.NEWER
        left_at = self.forks.get(position.timeline)
        return Verdict.KEPT if left_at is not None and position.lsn <= left_at else Verdict.LOST

    def has(self, node: Position, wanted: Position) -> bool:
        """Whether a node that has replayed up to `node` has `wanted`: only where both are part of this lineage."""
        on_it = self.judge(node) is Verdict.KEPT and self.judge(wanted) is Verdict.KEPT
        return on_it and node.lsn >= wanted.lsn
