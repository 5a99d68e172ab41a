"""What a person pastes into psql runs on a primary and on a replica, and shows what it says it shows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import sql
from tests.cluster_fixtures import Databases
from tests.commandline import flask

INSPECT = sql.FOLDER / "inspect"
STORE = "0190b2c0-0000-7000-8000-000000000001"
ABROAD = "0190b2c0-0000-7000-8000-000000000002"

Tables = list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def primary(databases: Databases) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(databases.dsn("shard-0", administrator=True), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        yield connection


@pytest.fixture(scope="module")
def replica(databases: Databases, primary: psycopg.Connection[tuple[Any, ...]]) -> str:
    """The DSN of a replica that has replayed what the primary has written."""
    node = next(
        node for node in databases.cluster.topology.nodes("shard-0") if node.port != primary.info.port
    )
    dsn = psycopg.conninfo.make_conninfo(databases.dsn("shard-0", administrator=True), port=node.port)
    written = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(
            lambda: (
                connection.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written).fetchone()
                == (True,)
            )
        )
    return dsn


def until(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


def paste(name: str, dsn: str) -> Tables:
    """The rows of each statement of a file."""
    text = (INSPECT / f"{name}.sql").read_bytes()
    tables = []
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        cursor = connection.execute(text)
        tables.append(cursor.fetchall())
        while cursor.nextset():
            tables.append(cursor.fetchall())
    return tables


@pytest.mark.parametrize("path", sorted(INSPECT.glob("*.sql")), ids=lambda path: path.stem)
def test_each_file_runs_on_a_primary_and_on_a_replica(
    path: Path, databases: Databases, primary: psycopg.Connection[tuple[Any, ...]], replica: str
) -> None:
    assert paste(path.stem, databases.dsn("shard-0", administrator=True))
    assert paste(path.stem, replica)


@pytest.mark.parametrize("path", sorted(INSPECT.glob("*.sql")), ids=lambda path: path.stem)
def test_each_file_says_what_is_bad(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("-- ")
    assert any(line.startswith("--") and "bad" in line.lower() for line in lines)


def test_replication_shows_senders_on_the_primary_and_the_receiver_on_a_replica(
    databases: Databases, primary: psycopg.Connection[tuple[Any, ...]], replica: str
) -> None:
    senders, slots, [server], _ = paste("replication", databases.dsn("shard-0", administrator=True))
    assert len(senders) == 2
    assert {sender["state"] for sender in senders} == {"streaming"}
    assert all(sender["replay_lag_bytes"] >= 0 for sender in senders)
    assert sum(slot["active"] for slot in slots) == 2
    assert (server["role"], server["receiver_timeline"]) == ("primary", None)
    _, _, [server], _ = paste("replication", replica)
    assert server["role"] == "replica"
    assert server["receiver"].startswith("streaming from ")
    assert server["receiver_timeline"] == server["newest_timeline_heard"]
    assert server["received"] >= server["replayed"]
    assert server["replay_lag_bytes"] is not None


def test_replication_tells_the_same_of_each_node_as_shards_status(
    databases: Databases, primary: psycopg.Connection[tuple[Any, ...]], replica: str
) -> None:
    document = json.loads(flask(databases.settings, "shards", "status", "--json").stdout)
    for node in document["shards"][0]["nodes"]:
        dsn = psycopg.conninfo.make_conninfo(node["dsn"], dbname=databases.settings.database_name)
        _, _, [server], _ = paste("replication", dsn)
        assert (server["role"], server["timeline"]) == (node["role"], node["timeline"])
        assert position(server["lsn"]) >= position(node["lsn"])  # it was asked later


def test_replication_shows_a_gate_that_is_shut(
    databases: Databases, primary: psycopg.Connection[tuple[Any, ...]]
) -> None:
    shut = "INSERT INTO closed_timelines VALUES (1, now()), (7, now() + interval '1 hour')"
    with primary.transaction():
        primary.execute("SET LOCAL synchronous_commit = local")
        primary.execute(shut)
    _, _, _, gates = paste("replication", databases.dsn("shard-0", administrator=True))
    assert [(gate["timeline"], gate["shut"]) for gate in gates] == [(1, False), (7, True)]
    assert 3500 < gates[1]["opens_in_seconds"] <= 3600
    primary.execute("DELETE FROM closed_timelines")


def position(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def test_locks_shows_who_blocks_whom(
    databases: Databases, primary: psycopg.Connection[tuple[Any, ...]]
) -> None:
    dsn = databases.dsn("shard-0", administrator=True)
    with psycopg.connect(dsn, application_name="the blocker") as blocker:
        blocker.execute("LOCK TABLE products IN ACCESS EXCLUSIVE MODE")
        with psycopg.connect(dsn, application_name="the one who waits", autocommit=True) as waiting:
            thread = threading.Thread(target=lambda: waiting.execute("SELECT count(*) FROM products"))
            thread.start()
            until(lambda: paste("locks", dsn)[0])
            [pair], transactions, strong = paste("locks", dsn)
            blocker.rollback()
            thread.join()
    assert (pair["application_name"], pair["blocker_name"]) == ("the one who waits", "the blocker")
    assert (pair["what"], pair["mode"]) == ("products", "AccessShareLock")
    assert pair["blocker_state"] == "idle in transaction"
    assert any(row["application_name"] == "the blocker" for row in transactions)
    assert ("products", "AccessExclusiveLock") in [(row["relation"], row["mode"]) for row in strong]


def test_stores_counts_rows_and_finds_those_of_stores_that_are_not_here(
    databases: Databases, primary: psycopg.Connection[tuple[Any, ...]]
) -> None:
    primary.execute("INSERT INTO stores VALUES (%s, 'A store', 'EUR', 1, now())", [STORE])
    primary.execute(
        "INSERT INTO products (store_id, id, title, price, stock, created_at, updated_at)"
        " SELECT %s, gen_random_uuid(), 'A title', 1, 1, now(), now() FROM generate_series(1, 3)",
        [STORE],
    )
    primary.execute(
        "INSERT INTO orders (store_id, id, status, currency, total, created_at, updated_at)"
        " VALUES (%s, gen_random_uuid(), 'pending', 'EUR', 1, now(), now())",
        [ABROAD],
    )
    stores, [whole] = paste("stores", databases.dsn("shard-0", administrator=True))
    assert [(row["name"], row["products"], row["orders"], row["share_percent"]) for row in stores] == [
        ("A store", 3, 0, 75),
        (None, 0, 1, 25),
    ]
    assert (whole["stores"], whole["orphans"]) == (1, 1)


def test_sizes_lists_tables_and_indexes(databases: Databases) -> None:
    tables, indexes, _ = paste("sizes", databases.dsn("shard-0", administrator=True))
    assert {"stores", "products", "orders"} <= {row["table"] for row in tables}
    assert all(row["valid"] for row in indexes)


def test_slowest_names_the_query_of_the_service(
    databases: Databases, primary: psycopg.Connection[tuple[Any, ...]]
) -> None:
    primary.execute(
        "SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database WHERE datname = current_database()"
    )
    primary.execute(sql.query("read_position").text.encode())
    by_time, _ = paste("slowest", databases.dsn("shard-0", administrator=True))
    assert "read_position" in {row["query"] for row in by_time}


def test_pools_counts_connections_by_application(databases: Databases) -> None:
    dsn = databases.dsn("shard-0", administrator=True)
    with psycopg.connect(dsn, application_name="worker-7/shard-0-primary"):
        connections, [room] = paste("pools", dsn)
    [row] = [row for row in connections if row["application_name"] == "worker-7/shard-0-primary"]
    assert (row["state"], row["connections"], row["database"]) == (
        "idle",
        1,
        databases.settings.database_name,
    )
    assert room["used"] + room["free"] == room["limit"]
