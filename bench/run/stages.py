"""The stages: which layers are on in each, one more from stage to stage."""

from __future__ import annotations

from flags import NAMES

STAGES: dict[str, frozenset[str]] = {
    "baseline": frozenset(),
    "+replicas": frozenset({"read_replicas"}),
    "+cache": frozenset({"read_replicas", "redis_cache"}),
    "+sharding": frozenset({"read_replicas", "redis_cache", "sharding"}),
    "everything": frozenset(NAMES),
}


def flags_of(stage: str) -> dict[str, bool]:
    return {name: name in STAGES[stage] for name in NAMES}
