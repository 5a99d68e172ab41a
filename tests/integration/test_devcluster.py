"""The embedded cluster as the rest of the tests see it."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import psycopg
import pytest

from devcluster.cluster import Cluster
from devcluster.processes import Process, start_mark
from tests.cluster_fixtures import Databases, running_cluster


def test_each_module_gets_databases_of_its_own_on_every_shard(databases: Databases) -> None:
    for shard in databases.cluster.topology.shard_names:
        with psycopg.connect(databases.dsn(shard)) as connection:
            row = connection.execute("SELECT current_database(), count(*) FROM stores").fetchone()
        assert row == (databases.settings.database_name, 0)


def test_the_catalog_knows_every_node_and_the_whole_ring(databases: Databases) -> None:
    with psycopg.connect(databases.catalog_dsn()) as connection:
        nodes = connection.execute("SELECT name FROM nodes ORDER BY name").fetchall()
        partitions = connection.execute("SELECT count(*), count(DISTINCT shard) FROM partitions").fetchone()
    assert [name for (name,) in nodes] == [f"shard-{shard}-{node}" for shard in "01" for node in "abc"]
    assert partitions == (4096, 2)


def test_the_service_may_change_rows_and_not_the_schema(databases: Databases) -> None:
    with psycopg.connect(databases.dsn("shard-0")) as connection:
        connection.execute("DELETE FROM orders")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE mine ()")


def test_every_commit_waits_for_one_of_two_replicas(databases: Databases) -> None:
    for shard in databases.cluster.topology.shard_names:
        with psycopg.connect(databases.dsn(shard)) as connection:
            rows = connection.execute(
                "SELECT application_name, sync_state FROM pg_stat_replication ORDER BY 1"
            )
            assert rows.fetchall() == [(f"{shard}-b", "quorum"), (f"{shard}-c", "quorum")]


def test_no_password_can_be_read_by_the_service(databases: Databases) -> None:
    """pg_monitor reads every setting and every statement."""
    cluster = databases.cluster
    secret = [cluster.credentials.passwords[role] for role in ("app", "replication", "postgres")]
    for node in cluster.topology.nodes():
        with psycopg.connect(
            host="127.0.0.1",
            port=node.port,
            dbname=databases.settings.database_name,
            user="app",
            password=cluster.credentials.passwords["app"],
        ) as connection:
            settings = connection.execute("SELECT setting FROM pg_settings").fetchall()
            statements = connection.execute("SELECT query FROM pg_stat_statements").fetchall()
        readable = "\n".join(str(text) for (text,) in settings + statements)
        assert not [password for password in secret if password in readable]


def test_a_server_that_was_killed_and_started_again_leaves_no_zombie() -> None:
    with running_cluster(shards=1, replicas=0, locks=0) as cluster:
        (first,) = (process.pid for process in cluster.launcher.recorded() if process.kind == "redis")
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert start_mark(first) is None
        cluster.start_server("redis")
    assert not psutil.pid_exists(first)


def test_a_process_that_leads_no_group_is_killed_too(cluster: Cluster) -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        process = Process("sleep", "postgres", child.pid, start_mark(child.pid) or "")
        assert cluster.launcher.stop([process], [(signal.SIGKILL, 30.0)]) == []
