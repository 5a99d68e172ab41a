"""A PostgreSQL server, as the catalog knows it: name and address. Its role is discovered, not written down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """`name`, such as `shard-0-b`, stays with the server whatever role it has; `shard` is what it belongs to."""

    name: str
    shard: str
    host: str
    port: int
