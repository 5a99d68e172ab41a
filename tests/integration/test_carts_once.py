"""0005_carts_once.sql on a shard where carts were checked out twice before there was that index."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from devcluster.cluster import Cluster
from devcluster.topology import HOST
from sql.migrate import Target, migrate
from tests.cluster_fixtures import ROOT

MIGRATIONS = ROOT / "sql" / "migrations"
KEEP = """
INSERT INTO idempotency_keys (store_id, credential_id, key, fingerprint, order_id, cart_version, response, expires_at)
VALUES (%s, %s, %s, %s, %s, %s, '{}', now() + interval '1 day')
"""


@pytest.fixture
def target(cluster: Cluster) -> Iterator[Target]:
    """An empty database."""
    shard = cluster.topology.shard_names[0]
    node, name = cluster.primary(shard), f"carts_once_{uuid.uuid4().hex[:8]}"
    with cluster.postgres.connect(node) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        password = connection.info.password
    dsn = make_conninfo(host=HOST, port=node.port, dbname=name, user="postgres", password=password)
    yield Target(shard, dsn)
    with cluster.postgres.connect(node) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_one_order_of_each_cart_goes_on_knowing_it(target: Target, tmp_path: Path) -> None:
    for file in sorted(MIGRATIONS.glob("*.sql"))[:4]:
        shutil.copy(file, tmp_path)
    (outcome,) = migrate([target], tmp_path)
    assert outcome.error is None
    stores, credentials = [uuid.uuid4(), uuid.uuid4()], [uuid.uuid4(), uuid.uuid4()]
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        # No cart, one of no version, one that three keys checked out, and one of the same version in both stores.
        for store in stores:
            for number, version in enumerate([None, None, "", "", "twice", "twice", "twice", "once"]):
                values = (store, credentials[number % 2], f"key-{number}", bytes(32), uuid.uuid4(), version)
                connection.execute(KEEP, values)
        (outcome,) = migrate([target], MIGRATIONS)
        assert outcome.error is None
        kept = connection.execute(
            "SELECT cart_version, count(*) FROM idempotency_keys GROUP BY cart_version ORDER BY cart_version"
        ).fetchall()
        assert kept == [("", 4), ("once", 2), ("twice", 2), (None, 8)]
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(KEEP, (stores[0], uuid.uuid4(), "k", bytes(32), uuid.uuid4(), "twice"))
