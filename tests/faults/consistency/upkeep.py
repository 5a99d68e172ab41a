"""What an operator does about a shard: fails it over, brings a node back, sees that all is well again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import psycopg

from config import Settings
from tests.cluster_fixtures import ROOT, as_environment
from tests.shard_servers import Servers, until

WELL_SECONDS = 60.0


class FailoverError(Exception):
    """`flask shards failover` did not do it; the message is what it printed."""


class Upkeep:
    """By the command line and SQL, as a person would. `settings` lead to the databases that are served."""

    def __init__(self, servers: Servers, settings: Settings) -> None:
        self.servers, self.settings = servers, settings

    def primary(self, shard: str) -> str:
        return self.servers.cluster.primary(shard).name

    def replicas(self, shard: str) -> list[str]:
        """In the order of their names, whether they run or not."""
        primary = self.primary(shard)
        return [node.name for node in self.servers.nodes if node.shard == shard and node.name != primary]

    def kill(self, node: str) -> None:
        self.servers.stop(node, signal.SIGKILL)

    def start(self, server: str) -> None:
        """Start a server that died; one that was failed over meanwhile comes back as a replica."""
        self.servers.cluster.start_server(server)

    def runs(self, node: str) -> bool:
        launcher = self.servers.cluster.launcher
        return any(launcher.alive(each) for each in launcher.recorded() if each.name == node)

    def fail_over(self, shard: str, *options: str) -> str:
        """Run the command and return what it printed. Raises `FailoverError`."""
        ran = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", "shards", "failover", shard, *options],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **as_environment(self.settings)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ran.returncode:
            raise FailoverError(f"{shard}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def rejoin(self, node: str) -> None:
        """Have an old primary follow the new one, whether it runs or not."""
        self.servers.cluster.rejoin(node)

    def heal(self) -> None:
        """Undo whatever is left of any fault, and wait until every node has all that its primary has."""
        shards = self.servers.cluster.topology.shard_names
        for node in self.servers.nodes:
            if self.runs(node.name):
                self.servers.thaw(node.name)
        for node in self.servers.nodes:
            if not self.runs(node.name):
                self.start(node.name)
        for shard in shards:
            self.await_whole(shard)
        for node in self.servers.nodes:
            self.servers.sql(node.name, "ALTER SYSTEM RESET recovery_min_apply_delay")
            self.servers.sql(node.name, "SELECT pg_reload_conf()")
            self.servers.sql(node.name, "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()")
        for shard in shards:
            self.await_replayed(shard)

    def await_whole(self, shard: str) -> None:
        """Wait until every replica of a shard follows its primary."""
        until(lambda: self._is_whole(shard), WELL_SECONDS)

    def await_replayed(self, shard: str) -> None:
        """Wait until every replica has replayed what the primary has written by now."""
        [[written]] = self.servers.sql(self.primary(shard), "SELECT pg_current_wal_flush_lsn()::text")
        for node in self.replicas(shard):
            until(partial(self._has_replayed, node, written), WELL_SECONDS)

    def _has_replayed(self, node: str, written: str) -> bool:
        return self.servers.sql(node, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written) == [(True,)]

    def _is_whole(self, shard: str) -> bool:
        replicas = self.replicas(shard)
        try:
            streaming = self.servers.sql(
                self.primary(shard),
                "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'",
            )
        except psycopg.Error:
            return False
        return {name for (name,) in streaming} == set(replicas)
