"""Where one store's requests go, and why: the one value that routing hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Reason = Literal["ring", "range", "pin", "sharding-off"]


@dataclass(frozen=True, slots=True)
class Route:
    """A store's shard by the shard map of `epoch`. Every write carries the epoch, and the shard checks it."""

    store_id: UUID
    shard: str
    reason: Reason
    epoch: int

    def __str__(self) -> str:
        return f"shard={self.shard} reason={self.reason} epoch={self.epoch}"
