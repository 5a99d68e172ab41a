"""Makes the catalog and tells it which shards there are and where their nodes listen.

`python -m deploy.register` comes before the first `flask shards migrate`, which finds the shards in the catalog.

`SHARDS` has a word for each shard, in the order of the ring's first shard to its last:
`shard-0=shard-0-a,shard-0-b shard-1=shard-1-a`. A node's name is its host name; each listens on 5432. Running it
again changes nothing but what differs.
"""

from __future__ import annotations

import os
import sys

import psycopg
from psycopg.conninfo import make_conninfo

import config
from errors import ConfigurationError, MarketplaceError, MigrationError
from pools.node import Node
from routing.catalog import Catalog, NewShard
from sql.migrate import Target, migrate

_PORT = 5432
_CATALOG_MIGRATIONS = config.ROOT / "sql" / "catalog"


def shards_from(text: str) -> list[NewShard]:
    """The shards that `SHARDS` names, each with weight 1. Raises `ConfigurationError` naming a garbled word."""
    shards = []
    for word in text.split():
        shard, _, nodes = word.partition("=")
        if not shard or not all(nodes.split(",")):
            raise ConfigurationError(f"SHARDS: {word!r} is not of the form shard-0=shard-0-a,shard-0-b")
        members = [Node(name, shard, name, _PORT) for name in nodes.split(",")]
        shards.append(NewShard(shard, 1.0, members))
    if not shards:
        raise ConfigurationError("SHARDS names no shard")
    return shards


def register(settings: config.Settings, shards: list[NewShard]) -> None:
    """Bring the catalog's schema up to date and write the shards to it, in the administrator's role.

    Raises `MigrationError`, or `psycopg.Error` where the catalog's primary does not answer.
    """
    dsn = make_conninfo(
        settings.catalog_dsn,
        user=settings.admin_user,
        password=settings.admin_password,
        target_session_attrs="read-write",
    )
    for outcome in migrate([Target("catalog", dsn)], _CATALOG_MIGRATIONS, report=print):
        if outcome.error:
            raise MigrationError(f"{outcome.target}: {outcome.error}")
    Catalog(lambda: psycopg.connect(dsn, autocommit=True)).register_shards(shards)


def main() -> int:
    try:
        shards = shards_from(os.environ.get("SHARDS", ""))
        register(config.load(), shards)
    except (MarketplaceError, psycopg.Error) as error:
        print(f"register: {error}", file=sys.stderr)
        return 1
    print(f"registered {', '.join(shard.name for shard in shards)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
