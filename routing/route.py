"""Where one store's requests go, and why: the one value that routing hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from routing.token import Position

Reason = Literal["ring", "range", "pin", "sharding-off"]


# The shard map's own history, as a cluster in a consistency token: its position is the epoch, on timeline 0. No
# PostgreSQL cluster has this system identifier.
MAP_HISTORY = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A store moved to where it lives: with which epoch, and behind which position of its new home it is all there."""

    epoch: int
    position: Position

    @property
    def epoch_position(self) -> Position:
        """What a token carries, so that no worker with an older map looks for the store in its old home."""
        return Position(MAP_HISTORY, 0, self.epoch)


@dataclass(frozen=True, slots=True)
class Route:
    """A store's shard by the shard map of `epoch`. Every write carries the epoch, and the shard checks it."""

    store_id: UUID
    shard: str
    reason: Reason
    epoch: int
    arrival: Arrival | None = None  # where it has moved lately

    def __str__(self) -> str:
        return f"shard={self.shard} reason={self.reason} epoch={self.epoch}"
