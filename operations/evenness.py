"""Evening out: which units go from one shard to another, so that each has the part that its weight asks for.

A unit is what moves as one: a partition with its stores, or a single store. It has a size in each measure (rows, load),
as a part of all there is. Pure computation, and deterministic; `operations/rebalance.py` makes a plan of it.

Whales first: a unit so large that it decides what is left for the others. They move only where two of them share a
shard that one could leave. Then the others, one at a time: from the shard that is furthest above what it should have,
or to the one that is furthest below. Where one unit is enough for both shards, the cheapest of those is taken, else the
cheapest of those that help about as much as the best one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Sizes = tuple[float, ...]  # in each measure, as a part of all

# A step has to help by more than rounding does.
_LEAST_GAIN = 1e-12
# Fewest moves against cheapest: what helps this much as the best one may be taken for its price.
_ABOUT_AS_MUCH = 0.75


@dataclass(frozen=True, slots=True)
class Unit:
    """`rows_at`: how many of its rows lie on which shard now, so what it costs to have it elsewhere."""

    name: str
    sizes: Sizes
    rows_at: Mapping[str, int]
    is_whale: bool = False
    partition: int | None = None  # None: a single store

    def cost(self, shard: str) -> int:
        """Rows that have to be moved for it to be there."""
        return sum(rows for at, rows in self.rows_at.items() if at != shard)


@dataclass(slots=True)
class Scales:
    """Where the units are, and what the shards should have.

    `targets` by shard: the part that its weight asks for, all together 1. `fixed` is what lies on the shards and does
    not move. `partitions` is how many each owns: none gives its last one away.
    """

    targets: Mapping[str, float]
    fixed: Mapping[str, Sizes]
    units: Sequence[Unit]
    owners: list[str]  # of the units, in their order
    partitions: dict[str, int]
    tolerance: float
    _held: dict[str, list[float]] = field(init=False)
    _levels: list[dict[str, float]] = field(init=False)  # for each measure, what each shard should have

    def __post_init__(self) -> None:
        self._held = {shard: list(self.fixed[shard]) for shard in self.targets}
        for unit, owner in zip(self.units, self.owners, strict=True):
            self._weigh(unit, owner, 1)
        self._levels = self._find_levels()

    def settle(self) -> None:
        """Move units until every shard is within the tolerance, or no single move brings it nearer."""
        while self._part_whales():
            pass
        self._levels = self._find_levels()
        while (step := self._next_step()) is not None:
            self._move(*step)

    def _weigh(self, unit: Unit, shard: str, sign: int) -> None:
        held = self._held[shard]
        for measure, size in enumerate(unit.sizes):
            held[measure] += sign * size

    def _move(self, number: int, shard: str) -> None:
        unit, owner = self.units[number], self.owners[number]
        self._weigh(unit, owner, -1)
        self._weigh(unit, shard, 1)
        self.owners[number] = shard
        if unit.partition is not None:
            self.partitions[owner] -= 1
            self.partitions[shard] += 1

    def _may_leave(self, number: int) -> bool:
        return self.units[number].partition is None or self.partitions[self.owners[number]] > 1

    # Whales.

    def _immovable(self) -> dict[str, list[float]]:
        """What each shard keeps in any case: what is fixed, and whales."""
        kept = {shard: list(self.fixed[shard]) for shard in self.targets}
        for unit, owner in zip(self.units, self.owners, strict=True):
            if unit.is_whale:
                for measure, size in enumerate(unit.sizes):
                    kept[owner][measure] += size
        return kept

    def _part_whales(self) -> bool:
        """Move one whale to where it is less in the way, if there is such a place."""
        kept = self._immovable()
        best: tuple[float, int, int, str] | None = None
        for number, unit in enumerate(self.units):
            owner = self.owners[number]
            if not unit.is_whale or not self._may_leave(number):
                continue
            limit = (1 + self.tolerance) * self.targets[owner]
            if max(kept[owner]) <= limit:
                continue
            for shard in self.targets:
                if shard != owner:
                    change = self._change(unit.sizes, (owner, kept[owner]), (shard, kept[shard]))
                    candidate = (change, unit.cost(shard), number, shard)
                    if change < -_LEAST_GAIN and (best is None or candidate < best):
                        best = candidate
        if best is None:
            return False
        self._move(best[2], best[3])
        return True

    def _change(
        self, sizes: Sizes, leaving: tuple[str, Sequence[float]], entering: tuple[str, Sequence[float]]
    ) -> float:
        """How the sum of squares changes by a unit's move: `leaving` and `entering` have what is above their mean."""
        (source, above), (target, below) = leaving, entering
        here, there = self.targets[source], self.targets[target]
        return sum(
            size * (size - 2 * above[measure]) / here + size * (size + 2 * below[measure]) / there
            for measure, size in enumerate(sizes)
        )

    # Levels.

    def _find_levels(self) -> list[dict[str, float]]:
        """What each shard should have: its target, but where what it keeps is more, that; the others share the rest."""
        kept = self._immovable()
        return [
            self._level({shard: kept[shard][measure] for shard in self.targets})
            for measure in range(len(next(iter(self.fixed.values()))))
        ]

    def _level(self, kept: Mapping[str, float]) -> dict[str, float]:
        rest, sharing, levels = 1.0, dict(self.targets), dict[str, float]()
        while sharing:
            whole = sum(sharing.values())
            full = [shard for shard, target in sharing.items() if kept[shard] > rest * target / whole]
            if not full:
                return levels | {shard: rest * target / whole for shard, target in sharing.items()}
            for shard in full:
                levels[shard] = kept[shard]
                del sharing[shard]
            rest -= sum(kept[shard] for shard in full)
        return levels

    # The others.

    def _excess(self, shard: str) -> list[float]:
        """What the shard has above what it should have, in each measure."""
        return [held - levels[shard] for held, levels in zip(self._held[shard], self._levels, strict=True)]

    def _next_step(self) -> tuple[int, str] | None:
        """The next unit to move, and where to; None where nothing is to be moved, or nothing helps."""
        excess = {shard: self._excess(shard) for shard in self.targets}
        relative = {shard: [one / self.targets[shard] for one in found] for shard, found in excess.items()}
        outside = [
            (abs(one), shard, one > 0)
            for shard, found in relative.items()
            for one in found
            if abs(one) > self.tolerance
        ]
        for _, shard, is_above in sorted(outside, key=lambda one: (-one[0], one[1])):
            others = sorted(
                (other for other in self.targets if other != shard),
                key=lambda other: (sum(relative[other]) * (1 if is_above else -1), other),
            )
            for other in others:
                source, target = (shard, other) if is_above else (other, shard)
                if (number := self._best_unit(source, target, excess)) is not None:
                    return number, target
        return None

    def _best_unit(self, source: str, target: str, excess: Mapping[str, Sequence[float]]) -> int | None:
        """Of those that are enough for both shards the cheapest; else of those that help about as much as the best."""
        helpful: list[tuple[float, int, int]] = []
        enough: list[tuple[int, float, int]] = []
        for number in self._movable(source):
            unit = self.units[number]
            change = self._change(unit.sizes, (source, excess[source]), (target, excess[target]))
            if change < -_LEAST_GAIN:
                cost = unit.cost(target) - unit.cost(source)
                helpful.append((change, cost, number))
                if self._is_enough(unit.sizes, (source, excess[source]), (target, excess[target])):
                    enough.append((cost, change, number))
        if not helpful:
            return None
        limit = min(helpful)[0] * _ABOUT_AS_MUCH
        return min(enough or [(cost, change, number) for change, cost, number in helpful if change <= limit])[
            2
        ]

    def _is_enough(
        self, sizes: Sizes, leaving: tuple[str, Sequence[float]], entering: tuple[str, Sequence[float]]
    ) -> bool:
        """Whether both shards are within the tolerance behind a unit's move."""
        (source, above), (target, below) = leaving, entering
        here, there = self.targets[source] * self.tolerance, self.targets[target] * self.tolerance
        return all(
            abs(above[measure] - size) <= here and abs(below[measure] + size) <= there
            for measure, size in enumerate(sizes)
        )

    def _movable(self, shard: str) -> Iterator[int]:
        for number, owner in enumerate(self.owners):
            if owner == shard and not self.units[number].is_whale and self._may_leave(number):
                yield number
