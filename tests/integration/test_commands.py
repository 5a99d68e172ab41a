"""The command line against a running cluster: what it prints, and how it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import ids
from devcluster.cluster import Cluster
from flags import NAMES
from routing.catalog import Catalog
from tests.catalogs import catalog_at
from tests.cluster_fixtures import Databases, fresh_databases
from tests.commandline import assert_refused, flask, flask_process, frozen

NODES = [f"shard-{number}-{letter}" for number in (0, 1) for letter in "abc"]
COMMANDS = (
    ["shards", "status"],
    ["shards", "migrate"],
    ["shards", "failover"],
    ["shards", "move"],
    ["shards", "undo"],
    ["shards", "gather"],
    ["shards", "mover"],
    ["flags", "list"],
    ["flags", "set"],
    ["seed"],
)


@pytest.fixture
def fresh(cluster: Cluster) -> Iterator[Databases]:
    """Databases that one test may spoil."""
    with fresh_databases(cluster) as databases:
        yield databases


@pytest.fixture
def catalog(fresh: Databases) -> Catalog:
    return catalog_at(fresh.catalog_dsn())


def add_store(databases: Databases, shard: str) -> None:
    with psycopg.connect(databases.dsn(shard)) as connection:
        connection.execute("INSERT INTO stores VALUES (%s, 'a', 'EUR', 1, now())", [ids.new_id()])


def status(databases: Databases) -> dict[str, Any]:
    answer = flask(databases.settings, "shards", "status", "--json")
    assert answer.returncode == 0, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def nodes_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for shard in document["shards"] for node in shard["nodes"]}


# Without a cluster


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_needs_no_cluster(command: list[str]) -> None:
    answer = flask_process(None, *command, "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith("Usage: ")
    assert answer.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        ["shards", "status"],
        ["shards", "migrate"],
        ["shards", "failover", "shard-0"],
        ["shards", "move", str(UUID(int=7)), "shard-0"],
        ["flags", "list"],
        ["seed"],
    ],
    ids=" ".join,
)
def test_a_missing_setting_is_named_in_one_line(command: list[str]) -> None:
    assert_refused(flask_process(None, *command), "CATALOG_DSN", "make up")


@pytest.mark.parametrize(
    "command",
    [
        ["shards", "status"],
        ["shards", "migrate"],
        ["shards", "failover", "shard-0"],
        ["shards", "move", str(UUID(int=7)), "shard-0"],
        ["flags", "list"],
        ["flags", "set", "sharding", "on"],
        ["seed"],
    ],
    ids=" ".join,
)
def test_a_catalog_that_is_away_is_told_in_one_line(databases: Databases, command: list[str]) -> None:
    away = replace(
        databases.settings, catalog_dsn="host=127.0.0.1,127.0.0.1 port=1,2 dbname=catalog user=app"
    )
    assert_refused(flask(away, *command), "127.0.0.1:1 ", "127.0.0.1:2 ", "refused")


# shards status


def test_status_tells_every_shard_and_node(fresh: Databases) -> None:
    add_store(fresh, "shard-1")
    document = status(fresh)
    assert set(document) == {"epoch", "shards", "schema"}
    assert [(s["name"], s["stores"]) for s in document["shards"]] == [("shard-0", 0), ("shard-1", 1)]
    assert sum(shard["share"] for shard in document["shards"]) == 1
    assert document["schema"] == []
    nodes = nodes_of(document)
    assert list(nodes) == NODES
    for name, node in nodes.items():
        assert node["role"] == ("primary" if name.endswith("a") else "replica")
        assert node["healthy"] is True
        assert isinstance(node["replay_lag_bytes"], int)
        assert isinstance(node["replay_lag_seconds"], float)
        assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", node["lsn"])
        assert node["pool"] == {"size": 0, "available": 0, "waiting": None}


def test_a_nodes_dsn_leads_an_administrator_to_that_very_node(fresh: Databases, cluster: Cluster) -> None:
    ports = {node.name: node.port for node in cluster.topology.nodes()}
    for name, node in nodes_of(status(fresh)).items():
        with psycopg.connect(node["dsn"]) as connection:
            row = connection.execute(
                "SELECT current_setting('port')::int, pg_is_in_recovery(), rolsuper, current_database()"
                " FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert row == (ports[name], node["role"] == "replica", True, fresh.settings.database_name)


def test_status_counts_the_connections_of_the_services_pools(fresh: Databases) -> None:
    dsn = make_conninfo(fresh.dsn("shard-1"), application_name="worker-1/shard-1-primary")
    with psycopg.connect(dsn, autocommit=True), psycopg.connect(dsn) as busy:
        busy.execute("SELECT 1")  # in its transaction until the end
        nodes = nodes_of(status(fresh))
    assert nodes["shard-1-a"]["pool"] == {"size": 2, "available": 1, "waiting": None}
    assert nodes["shard-0-a"]["pool"]["size"] == 0


def test_status_prints_a_line_for_every_node_and_shard(fresh: Databases) -> None:
    answer = flask_process(fresh.settings, "shards", "status")
    assert answer.returncode == 0
    for name in ("shard-0 ", "shard-1 ", *NODES):
        assert len(re.findall(f"(?m)^{name}", answer.stdout)) == 1
    assert "as the migrations left it" in answer.stdout
    assert "postgresql://" not in answer.stdout


def test_a_frozen_replica_is_unknown_and_all_else_is_told(fresh: Databases) -> None:
    with frozen(nodes_of(status(fresh))["shard-0-b"]["dsn"]):
        document = status(fresh)
    nodes = nodes_of(document)
    assert nodes["shard-0-b"]["role"] == "unknown"
    assert nodes["shard-0-b"]["healthy"] is False
    assert nodes["shard-0-b"]["replay_lag_bytes"] is None
    assert all(node["healthy"] for name, node in nodes.items() if name != "shard-0-b")


@pytest.mark.parametrize(("away", "there"), [("shard-0", "shard-1"), ("shard-1", "shard-0")])
def test_a_shard_without_a_primary_is_named_and_all_else_is_told(
    fresh: Databases, away: str, there: str
) -> None:
    add_store(fresh, away)
    # With the first shard's primary, the catalog's is away as well.
    with frozen(nodes_of(status(fresh))[f"{away}-a"]["dsn"]):
        answer = flask(fresh.settings, "shards", "status", "--json")
    assert_refused(answer, f"no primary answers on {away}")
    document = json.loads(answer.stdout)
    nodes = nodes_of(document)
    assert nodes[f"{away}-a"]["role"] == "unknown"
    assert nodes[f"{away}-b"]["replay_lag_bytes"] is None
    assert {s["name"]: s["stores"] for s in document["shards"]} == {away: 1, there: 0}
    assert nodes[f"{there}-a"]["healthy"] is True


def test_a_change_by_hand_is_told(fresh: Databases) -> None:
    with psycopg.connect(fresh.dsn("shard-1", administrator=True)) as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN note text")
    document = status(fresh)
    assert any("shard-1" in line and "note" in line for line in document["schema"])
    assert "note" in flask(fresh.settings, "shards", "status").stdout


# shards migrate


def empty(databases: Databases, shard: str, *statements: str) -> None:
    """Put a shard back to before its first migration, and then run these statements."""
    with psycopg.connect(databases.dsn(shard, administrator=True)) as connection:
        for statement in ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", *statements):
            connection.execute(statement.encode())


def test_a_second_migration_has_nothing_to_do(fresh: Databases) -> None:
    answer = flask(fresh.settings, "shards", "migrate")
    assert answer.returncode == 0
    for name in ("catalog", "shard-0", "shard-1"):
        assert f"{name}: nothing to do" in answer.stdout


def test_a_failing_shard_is_named_the_others_are_finished_and_the_next_run_does_what_is_left(
    fresh: Databases,
) -> None:
    empty(fresh, "shard-0", "CREATE TABLE stores ()")
    empty(fresh, "shard-1")
    answer = flask(fresh.settings, "shards", "migrate")
    assert_refused(answer, "shard-0", "already exists")
    assert "shard-1: 0001_marketplace applied" in answer.stdout

    with psycopg.connect(fresh.dsn("shard-0", administrator=True)) as connection:
        connection.execute("DROP TABLE stores")
    again = flask(fresh.settings, "shards", "migrate")
    assert again.returncode == 0
    assert "shard-0: 0001_marketplace applied" in again.stdout
    assert "shard-1: nothing to do" in again.stdout


def test_a_dry_run_says_what_would_be_applied_and_applies_nothing(fresh: Databases) -> None:
    empty(fresh, "shard-1")
    for _ in range(2):
        answer = flask(fresh.settings, "shards", "migrate", "--dry-run")
        assert answer.returncode == 0
        assert "shard-1: would apply 0001_marketplace" in answer.stdout
        assert "shard-0: nothing to do" in answer.stdout


# flags


def test_every_flag_is_listed_with_its_state(fresh: Databases) -> None:
    answer = flask(fresh.settings, "flags", "list", "--json")
    assert json.loads(answer.stdout) == {name: name == "sharding" for name in NAMES}
    text = flask(fresh.settings, "flags", "list").stdout
    assert re.search(r"(?m)^sharding +on$", text)
    assert re.search(r"(?m)^redis_cache +off$", text)


def test_an_unknown_flag_is_refused_with_the_names_there_are(fresh: Databases) -> None:
    assert_refused(flask(fresh.settings, "flags", "set", "turbo", "on"), "turbo", *NAMES)


def test_a_state_other_than_on_and_off_is_a_usage_error(fresh: Databases) -> None:
    assert flask(fresh.settings, "flags", "set", "sharding", "maybe").returncode == 2


def test_sharding_stays_on_while_stores_live_elsewhere(fresh: Databases, catalog: Catalog) -> None:
    add_store(fresh, "shard-1")
    assert_refused(flask(fresh.settings, "flags", "set", "sharding", "off"), "flask shards gather")
    assert catalog.load().flags.sharding is True


def test_sharding_goes_off_and_on_and_stores_stay_where_they_are(fresh: Databases, catalog: Catalog) -> None:
    assert flask(fresh.settings, "flags", "set", "sharding", "off").returncode == 0
    assert catalog.load().flags.sharding is False
    made = flask(fresh.settings, "seed", "--stores", "20", "--products", "20", "--orders", "0")
    assert "shard-0: 20 stores" in made.stdout
    answer = flask(fresh.settings, "flags", "set", "sharding", "on")
    assert (answer.returncode, answer.stdout) == (0, "sharding is on.\n")
    shard_map, flags = catalog.load()
    with psycopg.connect(fresh.dsn("shard-0")) as connection:
        stores = [store_id for (store_id,) in connection.execute("SELECT store_id FROM stores")]
    assert len(stores) == 20
    assert {shard_map.route(store, sharding=flags.sharding).shard for store in stores} == {"shard-0"}
