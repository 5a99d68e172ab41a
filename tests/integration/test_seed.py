"""Seeding real shards: the same rows for the same seed, all of them or none."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from devcluster.cluster import Cluster
from operations.flags import set_flag
from operations.passwords import verify_password
from operations.seed import DEMO_PASSWORD, Seeded, SeedPlan, seed
from operations.seeding.keys_file import write_keys
from operations.seeding.load import TABLES, SeedError, ShardLoad, load
from operations.seeding.plan import plan_stores
from operations.seeding.vocabulary import make_vocabulary
from routing.catalog import Catalog
from tests.catalogs import catalog_at
from tests.cluster_fixtures import Databases, fresh_databases
from tests.commandline import ROOT, assert_refused, environment, flask, flask_process, frozen

SHARDS = ("shard-0", "shard-1")
STORE = UUID(int=7 << 76 | 2 << 62)
STORE_LINE = f"{STORE}\ta\tEUR\t1\t2025-01-01T00:00:00Z"
SMALL = ("--stores", "12", "--products", "240", "--orders", "60")


@pytest.fixture
def another(cluster: Cluster) -> Iterator[Callable[[], Databases]]:
    """Makes databases that one test may spoil."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(fresh_databases(cluster))


@pytest.fixture
def fresh(another: Callable[[], Databases]) -> Databases:
    return another()


@pytest.fixture(scope="module")
def seeded(databases: Databases) -> Databases:
    answer = flask_process(databases.settings, "seed", *SMALL)
    assert answer.returncode == 0, answer.stderr
    return databases


def rows(databases: Databases, query: str, shards: tuple[str, ...] = SHARDS) -> list[tuple[Any, ...]]:
    """What a query gives on every shard, sorted."""
    found: list[tuple[Any, ...]] = []
    for shard in shards:
        with psycopg.connect(databases.dsn(shard)) as connection:
            found += connection.execute(query.encode()).fetchall()
    return sorted(found, key=repr)


def everything(databases: Databases) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, but for what differs on purpose: the salted hash, and the map's epoch."""
    return {
        table: rows(databases, f"SELECT to_jsonb(t) - 'password_hash' - 'epoch' FROM {table} AS t")  # noqa: S608
        for table in TABLES
    }


def count(databases: Databases) -> int:
    return sum(len(found) for found in everything(databases).values())


def unwatched(rows: int) -> None:
    """Progress that nobody looks at."""


def never() -> AbstractContextManager[None]:
    """Forbids the commit."""
    raise SeedError("the shard map changed")


# What is made


def test_the_same_seed_makes_the_same_rows_and_another_seed_others(
    another: Callable[[], Databases], seeded: Databases
) -> None:
    same, other = another(), another()
    assert flask(same.settings, "seed", *SMALL).returncode == 0
    assert flask(other.settings, "seed", *SMALL, "--random-seed", "2").returncode == 0
    assert everything(same) == everything(seeded)
    assert everything(other)["products"] != everything(seeded)["products"]


def test_the_numbers_asked_for_are_made_and_told(another: Callable[[], Databases]) -> None:
    databases = another()
    answer = flask(databases.settings, "seed", *SMALL)
    found = {table: len(found) for table, found in everything(databases).items()}
    assert {k: found[k] for k in ("stores", "products", "orders")} == {
        "stores": 12,
        "products": 240,
        "orders": 60,
    }
    first = answer.stdout.splitlines()[0]
    assert first.startswith("Seeded 12 stores, 240 products, 60 customers, 60 orders: ")
    assert f"{sum(found.values()):,} rows" in first
    assert "rows/s" in first


def test_every_store_lives_where_the_map_looks_for_it(seeded: Databases) -> None:
    shard_map, flags = catalog_at(seeded.catalog_dsn()).load()
    for shard in SHARDS:
        stores = rows(seeded, "SELECT store_id, epoch FROM stores", (shard,))
        assert stores
        for store_id, epoch in stores:
            assert shard_map.route(store_id, sharding=flags.sharding).shard == shard
            assert epoch <= shard_map.epoch


def test_every_order_adds_up_and_names_products_that_are_there(seeded: Databases) -> None:
    assert not rows(
        seeded,
        """SELECT o.id FROM orders AS o LEFT JOIN order_items AS i ON (i.store_id, i.order_id) = (o.store_id, o.id)
        LEFT JOIN products AS p ON (p.store_id, p.id, p.title, p.price)
                                 = (i.store_id, i.product_id, i.title, i.unit_price)
        GROUP BY o.store_id, o.id
        HAVING o.total IS DISTINCT FROM sum(p.price * i.quantity) OR count(*) <> count(p.id)""",
    )
    assert not rows(seeded, "SELECT id FROM products WHERE stock < 0")


def test_a_customer_signs_in_with_the_demo_password(seeded: Databases) -> None:
    hashes = {kept for (kept,) in rows(seeded, "SELECT password_hash FROM customers")}
    assert len(hashes) == 1
    assert verify_password(DEMO_PASSWORD, hashes.pop())


def test_the_planner_knows_the_new_rows(seeded: Databases) -> None:
    for (estimate,) in rows(seeded, "SELECT reltuples FROM pg_class WHERE relname = 'products'"):
        assert estimate > 0


def test_the_service_seeds_too_where_no_administrator_is_known(
    another: Callable[[], Databases],
) -> None:
    databases = another()
    alone = replace(databases.settings, admin_user="", admin_password="")
    answer = flask(alone, "seed", *SMALL)
    assert answer.returncode == 0, answer.stderr
    assert len(everything(databases)["products"]) == 240


# All or nothing


def test_a_seed_that_was_used_before_is_refused_and_changes_nothing(seeded: Databases) -> None:
    before = everything(seeded)
    assert_refused(flask(seeded.settings, "seed", *SMALL), "used before", "--random-seed")
    assert everything(seeded) == before


def test_a_shard_that_fails_is_named_and_no_shard_has_anything(fresh: Databases, tmp_path: Path) -> None:
    with psycopg.connect(fresh.dsn("shard-1", administrator=True)) as connection:
        connection.execute("ALTER TABLE order_items ADD CONSTRAINT none_fits CHECK (quantity < 0)")
    keys = tmp_path / "keys"
    answer = flask(fresh.settings, "seed", *SMALL, "--keys", str(keys))
    assert_refused(answer, "shard-1", "none_fits", "Nothing was seeded")
    assert count(fresh) == 0
    assert not keys.exists()


def test_a_commit_that_fails_takes_the_rows_out_of_the_other_shards_again(fresh: Databases) -> None:
    with psycopg.connect(fresh.dsn("shard-1", administrator=True)) as connection:
        connection.execute(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no commit today'; END $$;
            CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON stores DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()"""
        )
    assert_refused(flask(fresh.settings, "seed", *SMALL), "shard-1", "no commit today", "Nothing was seeded")
    assert count(fresh) == 0


def test_an_interrupted_run_leaves_nothing(fresh: Databases) -> None:
    command = [
        sys.executable,
        "-m",
        "flask",
        "--app",
        "app",
        "seed",
        "--stores",
        "2",
        "--products",
        "10000000",
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(fresh.settings), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "rows" in process.stderr.readline()  # of progress: rows are on their way
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 1
    assert "Aborted!" in rest
    assert "Traceback" not in rest
    assert count(fresh) == 0


def test_orders_without_products_are_a_usage_error(seeded: Databases) -> None:
    answer = flask(seeded.settings, "seed", "--stores", "3", "--products", "2", "--random-seed", "5")
    assert answer.returncode == 2
    assert "--products" in answer.stderr


def test_a_shard_that_freezes_is_named_and_no_shard_has_anything(fresh: Databases) -> None:
    def rows_and_a_freeze() -> Iterator[tuple[str, str]]:
        thaw.enter_context(frozen(fresh.dsn("shard-1", administrator=True)))
        yield "stores", STORE_LINE

    loads = [
        ShardLoad("shard-0", fresh.dsn("shard-0"), (STORE,), [("stores", STORE_LINE)]),
        ShardLoad("shard-1", fresh.dsn("shard-1"), (STORE,), rows_and_a_freeze()),
    ]
    with ExitStack() as thaw, pytest.raises(SeedError, match="shard-1 did not answer within"):
        load(loads, never, unwatched, patience_seconds=0.5)
    assert count(fresh) == 0


# The commit


def test_rows_are_invisible_until_every_shard_has_them(fresh: Databases) -> None:
    loads = [ShardLoad(shard, fresh.dsn(shard), (STORE,), [("stores", STORE_LINE)]) for shard in SHARDS]
    seen = []

    @contextmanager
    def look() -> Iterator[None]:
        seen.append(count(fresh))
        yield
        seen.append(count(fresh))

    assert load(loads, look, unwatched) == 2
    assert seen == [0, 2]


def test_what_forbids_the_commit_undoes_everything(fresh: Databases) -> None:
    loads = [ShardLoad(shard, fresh.dsn(shard), (STORE,), [("stores", STORE_LINE)]) for shard in SHARDS]

    with pytest.raises(SeedError, match="changed"):
        load(loads, never, unwatched)
    assert count(fresh) == 0


def seed_while(databases: Databases, change: Callable[[Catalog], None]) -> Seeded:
    """Seed, and make this change of the catalog while rows are on their way."""
    catalog = catalog_at(databases.catalog_dsn())
    words = make_vocabulary(1)
    once = threading.Lock()

    def progress(rows: int) -> None:
        if once.acquire(blocking=False):
            change(catalog)

    plan = SeedPlan(plan_stores(12, 24, 0, 1, words), words, "$scrypt$")
    return seed(
        plan,
        catalog,
        lambda _map, shard: databases.dsn(shard),
        new_key=lambda _store, _key: ("", b""),
        progress=progress,
    )


def test_nothing_is_seeded_where_the_map_would_look_elsewhere_by_then(fresh: Databases) -> None:
    with pytest.raises(SeedError, match="map changed"):
        seed_while(fresh, lambda catalog: set_flag(catalog, "sharding", False, lambda _shard: []))
    assert count(fresh) == 0


def test_a_change_that_moves_no_store_does_not_disturb(fresh: Databases) -> None:
    made = seed_while(fresh, lambda catalog: catalog.set_flag("rate_limit", True))
    assert (sum(made.stores.values()), made.products) == (12, 24)
    assert len(everything(fresh)["products"]) == 24


# Merchant keys


def test_merchant_keys_are_written_for_their_owner_only_and_none_without_asking(
    another: Callable[[], Databases], seeded: Databases, tmp_path: Path
) -> None:
    databases, keys = another(), tmp_path / "keys"
    answer = flask(databases.settings, "seed", *SMALL, "--keys", str(keys))
    assert answer.returncode == 0
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    written = [json.loads(line) for line in keys.read_text().splitlines()]
    stores = [str(store_id) for (store_id,) in rows(databases, "SELECT store_id FROM stores")]
    assert sorted(entry["store_id"] for entry in written) == sorted(stores)
    assert len({entry["api_key"] for entry in written}) == 12
    assert sorted(str(s) for (s,) in rows(databases, "SELECT store_id FROM api_keys")) == sorted(stores)
    assert rows(seeded, "SELECT store_id FROM api_keys") == []


def test_a_file_of_keys_keeps_those_of_other_stores(tmp_path: Path) -> None:
    keys, old, new = tmp_path / "keys", UUID(int=1), UUID(int=2)
    write_keys(keys, {old: "a", new: "b"})
    write_keys(keys, {new: "c"})
    assert [json.loads(line)["api_key"] for line in keys.read_text().splitlines()] == ["a", "c"]


def test_a_file_that_holds_no_keys_is_left_alone(fresh: Databases, tmp_path: Path) -> None:
    keys = tmp_path / "letter"
    keys.write_text("Dear all\n")
    assert_refused(flask(fresh.settings, "seed", *SMALL, "--keys", str(keys)), "letter", "nothing was seeded")
    assert keys.read_text() == "Dear all\n"
    assert count(fresh) == 0
