"""What makes a running server the marketplace's: roles, databases, schema, and its place in the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psycopg.conninfo import make_conninfo

from devcluster.errors import ClusterError
from devcluster.postgres import ADMINISTRATOR, Postgres
from devcluster.topology import HOST, PostgresNode
from pools.node import Node
from routing.catalog import Catalog, NewShard
from sql.migrate import Target, migrate

SHARD_DATABASE = "marketplace"
CATALOG_DATABASE = "catalog"
_SQL = Path(__file__).resolve().parent.parent / "sql"


def make_roles_and_databases(postgres: Postgres, primary: PostgresNode, databases: Sequence[str]) -> None:
    """Run sql/bootstrap/ on a primary. Harmless where it ran before."""
    environ = {
        "PGHOST": HOST,
        "PGPORT": str(primary.port),
        "PGUSER": ADMINISTRATOR,
        "PGPASSWORD": postgres.passwords[ADMINISTRATOR],
        "PGDATABASE": "postgres",
        "APP_PASSWORD": postgres.passwords["app"],
        "REPLICATION_PASSWORD": postgres.passwords["replication"],
    }
    psql: list[str | Path] = [postgres.programs.postgres / "psql", "--no-psqlrc", "--quiet", "--no-password"]
    # On standard input: the servers' account may not be able to read this repository.
    postgres.launcher.command(psql, environ=environ, text=(_SQL / "bootstrap" / "roles.sql").read_text())
    script = (_SQL / "bootstrap" / "database.sql").read_text()
    for database in databases:
        postgres.launcher.command(psql, environ={**environ, "DATABASE": database}, text=script)


def migrate_everything(postgres: Postgres, primaries: Sequence[PostgresNode]) -> int:
    """Bring every shard and the catalog (on the first shard) up to date. Returns how many files were applied."""
    shards = [Target(node.shard, administrator_dsn(postgres, node, SHARD_DATABASE)) for node in primaries]
    catalog = [Target(CATALOG_DATABASE, administrator_dsn(postgres, primaries[0], CATALOG_DATABASE))]
    outcomes = [*migrate(shards, _SQL / "migrations"), *migrate(catalog, _SQL / "catalog")]
    failed = [f"{outcome.target}: {outcome.error}" for outcome in outcomes if outcome.error]
    if failed:
        raise ClusterError(f"migrating failed on {'; '.join(failed)}")
    return sum(len(outcome.applied) for outcome in outcomes)


def register(postgres: Postgres, catalog_primary: PostgresNode, nodes: Sequence[PostgresNode]) -> None:
    """Tell the catalog where the shards' nodes listen; assign the ring the first time.

    A shard that it does not know by then takes nothing: `flask shards add` has it join.
    """
    shards: dict[str, list[Node]] = {}
    for node in nodes:
        shards.setdefault(node.shard, []).append(Node(node.name, node.shard, HOST, node.port))
    catalog = _catalog(postgres, catalog_primary)
    catalog.register_shards([NewShard(name, 1.0, members) for name, members in shards.items()])


def registered(postgres: Postgres, catalog_primary: PostgresNode) -> set[str]:
    """The names of the shards in the catalog."""
    return {shard.name for shard in _catalog(postgres, catalog_primary).load().map.shards}


def _catalog(postgres: Postgres, primary: PostgresNode) -> Catalog:
    return Catalog(lambda: postgres.connect(primary, CATALOG_DATABASE))


def administrator_dsn(postgres: Postgres, node: PostgresNode, database: str) -> str:
    password = postgres.passwords[ADMINISTRATOR]
    return make_conninfo(host=HOST, port=node.port, dbname=database, user=ADMINISTRATOR, password=password)
