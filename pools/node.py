"""A PostgreSQL server as the catalog knows it: name and address. Its role is discovered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """`name`, such as `shard-0-b`, stays with the server whatever its role is; `shard` is whose it is."""

    name: str
    shard: str
    host: str
    port: int
