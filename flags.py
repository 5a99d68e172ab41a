"""The five layers that switch on and off at run time.

A flag changes speed, never correctness. A request takes one snapshot when it begins and passes it on as an argument,
so that no request sees half of a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Flags:
    """One snapshot of the five flags, as the catalog holds them."""

    sharding: bool = True
    read_replicas: bool = False
    redis_cache: bool = False
    rate_limit: bool = False
    distributed_locks: bool = False

    def with_flag(self, name: str, enabled: bool) -> Flags:
        return replace(self, **{name: enabled})

    def as_dict(self) -> dict[str, bool]:
        return asdict(self)

    @classmethod
    def from_rows(cls, rows: Mapping[str, bool]) -> Flags:
        """From the catalog's rows; a name this version does not know is left out."""
        return cls(**{name: rows[name] for name in NAMES if name in rows})


NAMES = tuple(field.name for field in fields(Flags))
