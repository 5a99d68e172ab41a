"""A PostgreSQL server, as the catalog knows it: a name and an address. Its role is discovered, never written down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """`name` stays with the server whatever role it has, such as `shard-0-b`; `shard` is the shard it belongs to."""

    name: str
    shard: str
    host: str
    port: int
