"""A change by hand is seen, told in words, and stays told until it is mended or accepted."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import sql
from devcluster.cluster import Cluster
from devcluster.topology import HOST
from errors import MigrationError
from sql.drift import differences, drift, fingerprint, schema_state
from sql.migrate import Target, migrate
from tests.cluster_fixtures import NewCluster

LOCK = "-- lock: none that anyone waits for.\n"
NUMBERS = count()


@pytest.fixture(scope="module")
def servers(new_cluster: NewCluster) -> Cluster:
    return new_cluster(shards=2, replicas=0, locks=0)


@pytest.fixture
def targets(servers: Cluster) -> list[Target]:
    """A freshly migrated database on each shard."""
    name = f"drift_{next(NUMBERS)}"
    targets = []
    for shard in servers.topology.shard_names:
        node = servers.primary(shard)
        with servers.postgres.connect(node) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            password = connection.info.password
        dsn = make_conninfo(host=HOST, port=node.port, dbname=name, user="postgres", password=password)
        targets.append(Target(shard, dsn))
    assert not any(outcome.error for outcome in migrate(targets, sql.MIGRATIONS))
    return targets


def by_hand(target: Target, statements: str) -> None:
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        connection.execute(statements.encode())


def test_freshly_migrated_shards_are_alike_and_as_recorded(targets: list[Target]) -> None:
    states = [schema_state(target, sql.MIGRATIONS) for target in targets]
    assert states[0].fingerprint == states[1].fingerprint == states[0].recorded_fingerprint
    assert fingerprint(targets[0].dsn) == states[0].fingerprint
    assert not states[0].drifted
    assert states[0].pending == ()
    assert states[0].versions[0] == "0001_marketplace"
    assert drift(targets, sql.MIGRATIONS) == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE products ADD COLUMN foo int", "column products.foo only in the database"),
        (
            "ALTER TABLE products DROP COLUMN attributes CASCADE",
            "column products.attributes only in the migrations",
        ),
        (
            "ALTER TABLE products ALTER COLUMN version SET DEFAULT 2",
            (
                "column products.version differs: bigint not null default 2 in the database,"
                " bigint not null default 1 in the migrations"
            ),
        ),
        (
            "ALTER TABLE products ALTER COLUMN version DROP NOT NULL",
            (
                "column products.version differs: bigint default 1 in the database,"
                " bigint not null default 1 in the migrations"
            ),
        ),
        ("ALTER TABLE order_items ALTER COLUMN line TYPE bigint", "column order_items.line differs: bigint"),
        (
            "ALTER TABLE products DROP CONSTRAINT products_stock_check",
            "constraint products_stock_check on products only in the migrations",
        ),
        ("CREATE INDEX by_hand ON products (title)", "index by_hand only in the database"),
        ("DROP INDEX products_search", "index products_search only in the migrations"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'products_search'::regclass",
            "index products_search differs",
        ),
        ("ALTER TABLE products SET (fillfactor = 50)", "table products differs"),
        ("CREATE TABLE mine (id int PRIMARY KEY, word text)", "table mine only in the database"),
        ("CREATE VIEW mine AS SELECT 1 AS one", "view mine only in the database"),
        ("CREATE TYPE mood AS ENUM ('good', 'bad')", "type mood only in the database"),
        ("CREATE SEQUENCE numbers", "sequence numbers only in the database"),
        ("CREATE SCHEMA other CREATE TABLE other.mine (id int)", "table other.mine only in the database"),
        ("DROP EXTENSION pg_trgm CASCADE", "extension pg_trgm only in the migrations"),
        (
            (
                "CREATE OR REPLACE FUNCTION fence_store(fenced_store uuid, map_epoch bigint) RETURNS void"
                " LANGUAGE plpgsql AS 'BEGIN END'"
            ),
            "function public.fence_store(fenced_store uuid, map_epoch bigint) differs in the database and in",
        ),
        ("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "table orders differs"),
        (
            (
                "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
                "CREATE TRIGGER spy AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()"
            ),
            "trigger spy on orders only in the database",
        ),
    ],
)
def test_a_change_by_hand_on_one_shard_is_told_in_words(
    statement: str, words: str, targets: list[Target]
) -> None:
    by_hand(targets[1], statement)
    told = drift(targets, sql.MIGRATIONS)
    assert any(line.startswith(f"shard-1: {words.replace('public.', '')}") for line in told), told
    assert all(line.startswith("shard-1: ") for line in told), told
    assert schema_state(targets[1], sql.MIGRATIONS).drifted
    assert not schema_state(targets[0], sql.MIGRATIONS).drifted


def test_a_table_that_one_side_has_not_is_told_in_one_line(targets: list[Target]) -> None:
    by_hand(
        targets[0],
        "CREATE TABLE mine (id int PRIMARY KEY CHECK (id > 0), word text); CREATE INDEX i ON mine (word)",
    )
    assert drift(targets, sql.MIGRATIONS) == ["shard-0: table mine only in the database"]


def test_two_shards_are_compared_in_words(targets: list[Target]) -> None:
    by_hand(targets[1], "ALTER TABLE products ADD COLUMN foo int")
    first, second = (schema_state(target, sql.MIGRATIONS) for target in targets)
    assert differences(first, second) == ["column products.foo only on shard-1"]
    assert differences(second, first) == ["column products.foo only on shard-1"]


def test_rows_statistics_and_the_order_of_columns_are_no_drift(targets: list[Target]) -> None:
    by_hand(
        targets[0],
        "INSERT INTO stores VALUES ('0190b2c0-0000-7000-8000-000000000000', 'a', 'EUR', 1, now());"
        "ALTER TABLE revoked_sessions DROP COLUMN expires_at;"
        "ALTER TABLE revoked_sessions ADD COLUMN expires_at timestamptz NOT NULL;"
        "CREATE INDEX revoked_sessions_expiry ON revoked_sessions (expires_at);"
        "ANALYZE; REINDEX TABLE products; COMMENT ON TABLE products IS 'things'",
    )
    assert drift(targets, sql.MIGRATIONS) == []


def test_a_later_migration_does_not_hide_a_change_by_hand(targets: list[Target], tmp_path: Path) -> None:
    for path in sql.MIGRATIONS.glob("*.sql"):
        (tmp_path / path.name).write_text(path.read_text())
    number = len(list(tmp_path.iterdir())) + 1
    by_hand(targets[0], "ALTER TABLE products ADD COLUMN foo int")
    later = tmp_path / f"{number:04}_later.sql"
    later.write_text(f"{LOCK}ALTER TABLE products ADD COLUMN later int; DROP INDEX orders_by_status;")
    assert f"shard-0: {later.stem} is not applied" in drift(targets, tmp_path)
    migrate(targets, tmp_path)
    assert drift(targets, tmp_path) == ["shard-0: column products.foo only in the database"]
    by_hand(targets[0], "ALTER TABLE products DROP COLUMN foo")
    assert drift(targets, tmp_path) == []


def test_a_person_accepts_a_change_by_emptying_the_record(targets: list[Target]) -> None:
    for target in targets:
        by_hand(target, "ALTER TABLE products ADD COLUMN foo int; TRUNCATE schema_snapshot")
    migrate(targets, sql.MIGRATIONS)
    assert drift(targets, sql.MIGRATIONS) == []


def test_shards_that_were_recorded_differently_are_told_apart(targets: list[Target]) -> None:
    by_hand(targets[1], "ALTER TABLE products ADD COLUMN foo int; TRUNCATE schema_snapshot")
    migrate(targets, sql.MIGRATIONS)
    assert drift(targets, sql.MIGRATIONS) == ["column products.foo only on shard-1"]


def test_a_shard_that_cannot_be_read_is_named(targets: list[Target], tmp_path: Path) -> None:
    gone = Target("shard-9", make_conninfo(targets[1].dsn, port=1))
    [line] = drift([targets[0], gone], sql.MIGRATIONS)
    assert line.startswith("shard-9: no node that accepts writes could be reached")
    (tmp_path / "0001_other.sql").write_text(f"{LOCK}CREATE TABLE a ();")
    with pytest.raises(
        MigrationError, match="shard-0: 0001_marketplace is applied, and is called 0001_other"
    ):
        schema_state(targets[0], tmp_path)
