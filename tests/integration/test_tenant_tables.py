"""What every table of a store's rows must be like to be moved, those of later migrations too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moves.servers import Servers
from moves.tables import tables_of
from tests.cluster_fixtures import Databases
from tests.moving import TABLES, Stage, finish, slow_write, stage, until_state

TENANT_TABLES = """
SELECT c.oid, c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE a.attname = 'store_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'm', 'f')
    AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""
# Replication follows by the key, which has to begin with the store; it fires no triggers and gives no numbers.
ODD = f"""
WITH tenant AS ({TENANT_TABLES})
SELECT relname, 'key' FROM tenant WHERE NOT EXISTS (
    SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = tenant.oid AND i.indisprimary AND a.attname = 'store_id'
)
UNION ALL SELECT relname, 'identity' FROM tenant JOIN pg_class USING (oid, relname) WHERE relreplident <> 'd'
UNION ALL SELECT relname, 'trigger ' || tgname FROM tenant JOIN pg_trigger ON tgrelid = tenant.oid
    WHERE NOT tgisinternal
UNION ALL SELECT relname, 'rule ' || rulename FROM tenant JOIN pg_rewrite ON ev_class = tenant.oid
UNION ALL SELECT tenant.relname, 'sequence' FROM tenant JOIN pg_depend ON refobjid = tenant.oid
    JOIN pg_class AS s ON s.oid = pg_depend.objid WHERE s.relkind = 'S'
UNION ALL SELECT relname, 'unlogged' FROM tenant JOIN pg_class USING (oid, relname) WHERE relpersistence <> 'p'
"""  # noqa: S608 - of the text above
# As a migration to come may have it. The enum's labels were made in another order on the other shard.
LATER = """
CREATE TYPE mood AS ENUM ({labels});
ALTER TYPE mood ADD VALUE 'glad' BEFORE 'sad';
CREATE TABLE reviews (
    store_id uuid NOT NULL, id uuid NOT NULL, stars numeric NOT NULL, felt mood, took interval, weight float8,
    tags text[], code char(4), seen tstzrange, at time, raw bytea, PRIMARY KEY (store_id, id)
)
"""
ROW = """
INSERT INTO reviews VALUES (%s, gen_random_uuid(), 1.0, 'glad', '1 day', '-0', '{a,NULL,"b c"}', 'x',
    '[2026-01-01 00:00:00.000001+00,)', '12:00:00.000001', '\\x00ff')
"""


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def test_every_table_of_a_stores_rows_can_be_moved(place: Stage) -> None:
    found = {name for _, name in place.sql("shard-0", TENANT_TABLES)}
    assert found == set(TABLES)
    assert place.sql("shard-0", ODD) == []
    servers = Servers(place.settings)
    with servers.connect(place.market.catalog.load().map, "shard-0") as connection:
        assert {table.name for table in tables_of(connection)} == found - {"stores"}


def test_all_of_them_are_published_for_their_store(place: Stage) -> None:
    store_id, source = place.new_store(rows=1)
    with place.mover():
        with slow_write(place, source, store_id):
            until_state(place, place.ask(store_id, place.other(source)), "verifying")
            published = place.sql(source, "SELECT tablename, rowfilter FROM pg_publication_tables")
            kinds = place.sql(
                source, "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication"
            )
        finish(place)
    filters = {name: rule for name, rule in published if name != "move_marks"}
    assert set(filters) == set(TABLES) - {"stores"}
    assert all(str(store_id) in rule for rule in filters.values())
    assert kinds == [(True, True, True, False)]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        pytest.param("UPDATE products SET stock = stock", "done", id="nothing"),
        pytest.param("UPDATE reviews SET stars = 1.00", "failed", id="a-scale"),
    ],
)
def test_a_table_that_a_later_migration_brings_is_moved_and_compared(
    place: Stage, change: str, state: str
) -> None:
    for shard, labels in zip(place.shards, ("'sad', 'tired'", "'tired', 'sad'"), strict=True):
        place.sql(shard, "DROP TABLE IF EXISTS reviews; DROP TYPE IF EXISTS mood")
        place.sql(shard, LATER.format(labels=labels))
    store_id, source = place.new_store(rows=1)
    target = place.other(source)
    place.sql(source, ROW, store_id)
    with place.mover():
        with slow_write(place, source, store_id):
            move = until_state(place, place.ask(store_id, target), "verifying")
            place.sql(target, f"{change} WHERE store_id = %s", store_id)
            with Servers(place.settings).connect(place.market.catalog.load().map, source) as connection:
                (reviews,) = (table for table in tables_of(connection) if table.name == "reviews")
        move = until_state(place, move, "failed", "done")
        finish(place)
    for shard in place.shards:
        rows = place.sql(shard, "DELETE FROM reviews WHERE store_id = %s RETURNING 1", store_id)
        assert len(rows) == (shard == place.home(store_id))
        place.sql(shard, "DROP TABLE reviews; DROP TYPE mood")
    as_they_are = {column.name for column in reviews.columns if not column.by_text}
    assert as_they_are == {"store_id", "id", "raw"}
    assert (move.state, state == "done" or "reviews" in str(move.error)) == (state, True)
