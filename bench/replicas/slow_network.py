"""A service far from its servers: each behind a proxy that delays and counts, and a catalog that leads through them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import config
from bench.service import HOST, free_port
from lab.servers import Servers
from pools.node import Node
from routing.catalog import Catalog, NewShard
from sql import CATALOG_MIGRATIONS
from sql.migrate import Target, migrate

CATALOG = "slow_network_catalog"
# As sql/bootstrap/database.sql has it.
_GRANTS = """
GRANT USAGE ON SCHEMA public TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON ROUTINES TO app;
"""


class Proxies:
    """`ports`: a server's name → the port of its proxy."""

    def __init__(self, ports: dict[str, int], process: subprocess.Popen[str]) -> None:
        self.ports = ports
        self._process = process

    def round_trips(self) -> int:
        """So far, through all of them."""
        return self._say("?")

    def delay(self, round_trip_ms: float) -> None:
        """From now on, through all of them."""
        self._say(str(round_trip_ms / 2))

    def _say(self, line: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def proxies(servers: Servers, round_trip_ms: float) -> Iterator[Proxies]:
    """To every node."""
    nodes = {node: str(conninfo_to_dict(servers.conninfo(node))["port"]) for node in servers.nodes}
    with proxies_to(nodes, round_trip_ms) as between:
        yield between


@contextmanager
def proxies_to(targets: Mapping[str, str], round_trip_ms: float) -> Iterator[Proxies]:
    """`targets`: the servers' ports by their names."""
    ports = {name: free_port() for name in targets}
    routes = [f"{ports[name]}:{port}" for name, port in targets.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.delay_proxy", "--delay-ms", str(round_trip_ms / 2), *routes],
        cwd=config.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith("listening"):
            raise SystemExit("the proxy does not listen")
        yield Proxies(ports, process)
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def catalog(servers: Servers, ports: dict[str, int]) -> Iterator[str]:
    """A catalog of its own that names the proxies instead of the nodes; its DSN for the service."""
    home = servers.primary(servers.shards[0])
    direct = servers.conninfo(home, dbname=CATALOG)
    drop = f"DROP DATABASE IF EXISTS {CATALOG} WITH (FORCE)"
    servers.sql(home, drop)
    servers.sql(home, f"CREATE DATABASE {CATALOG}")
    try:
        with psycopg.connect(direct, autocommit=True) as connection:
            connection.execute(_GRANTS)
        for outcome in migrate([Target("catalog", direct)], CATALOG_MIGRATIONS):
            if outcome.error:
                raise SystemExit(f"{CATALOG}: {outcome.error}")
        shards = [
            NewShard(shard, 1.0, [Node(node, shard, HOST, ports[node]) for node in servers.of_shard(shard)])
            for shard in servers.shards
        ]
        Catalog(lambda: psycopg.connect(direct, autocommit=True)).register_shards(shards)
        through = [ports[node] for node in servers.of_shard(servers.shards[0])]
        hosts, numbers = ",".join(HOST for _ in through), ",".join(map(str, through))
        yield make_conninfo(config.load().catalog_dsn, host=hosts, port=numbers, dbname=CATALOG)
    finally:
        servers.sql(home, drop)
