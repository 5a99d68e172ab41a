"""A `make up` that runs, as `$VAR/cluster.json` describes it: its service, and its servers to break and to mend."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import config
from lab.wire import Wire
from pools.node import Node

_POLL_SECONDS = 0.02
_ANSWER_SECONDS = 2

# Who is primary may be claimed by two, for a while; the one on the newest timeline is.
_TIMELINE = """
SELECT CASE WHEN pg_is_in_recovery() THEN 0
       ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END
"""


class Servers:
    """The servers by their names. Statements run as the administrator, in the marketplace's database."""

    def __init__(self, var: Path) -> None:
        self.var = var
        described = self._described()
        self.address = urlsplit(described["base_url"]).netloc
        self.operator = {"Authorization": f"Bearer {(var / 'operator-token').read_text().strip()}"}
        self._dsns = {
            each["name"]: each["dsn"] for each in described["processes"] if each["kind"] == "postgres"
        }
        self.nodes = sorted(self._dsns)

    def served_at(self, address: str) -> Servers:
        """The same servers, with another service before them."""
        other = copy.copy(self)
        other.address = address
        return other

    @property
    def shards(self) -> list[str]:
        return sorted({node.rpartition("-")[0] for node in self.nodes})

    def of_shard(self, shard: str) -> list[str]:
        return [node for node in self.nodes if node.rpartition("-")[0] == shard]

    def nodes_of(self, shard: str) -> list[Node]:
        """As the catalog has them, for the service's own modules."""
        return [
            Node(each["name"], shard, each["host"], each["port"])
            for each in self.processes()
            if each["name"] in self.of_shard(shard)
        ]

    def primary(self, shard: str) -> str:
        """The node of a shard that writes the newest timeline. Raises `SystemExit` where none answers."""
        found: dict[int, str] = {}
        for node in self.of_shard(shard):
            with suppress(psycopg.Error):
                ((timeline,),) = self.sql(node, _TIMELINE)
                found[timeline] = node
        if not found or max(found) == 0:
            raise SystemExit(f"{shard} has no primary")
        return found[max(found)]

    def replicas(self, shard: str) -> list[str]:
        primary = self.primary(shard)
        return [node for node in self.of_shard(shard) if node != primary]

    def conninfo(self, node: str, **changed: Any) -> str:
        return make_conninfo(self._dsns[node], **changed)

    def shard_conninfo(self, shard: str, **changed: Any) -> str:
        """To whichever node of the shard accepts writes, as libpq finds it."""
        nodes = [conninfo_to_dict(self._dsns[node]) for node in self.of_shard(shard)]
        addresses = {key: ",".join(str(node[key]) for node in nodes) for key in ("host", "port")}
        changed = {"connect_timeout": _ANSWER_SECONDS, **addresses, **changed}
        return self.conninfo(self.of_shard(shard)[0], target_session_attrs="read-write", **changed)

    def url(self, name: str) -> str:
        """Of a Redis-compatible server: `redis`, `lock-0` …"""
        return next(str(each["dsn"]) for each in self.processes() if each["name"] == name)

    def connect(self, node: str, **changed: Any) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            self.conninfo(node, connect_timeout=_ANSWER_SECONDS, **changed), autocommit=True
        )

    def sql(self, node: str, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect(node) as connection:
            cursor = connection.execute(text, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def insist(self, node: str, text: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement until it succeeds: on a replica it may stand in the way of replay, and be cancelled; or the
        server is just being brought back."""
        found: list[tuple[Any, ...]] = []

        def attempt() -> bool:
            with suppress(psycopg.Error):
                found[:] = self.sql(node, text, *parameters)
                return True
            return False

        wait_for(attempt, f"{node}: {text}")
        return found

    def kill(self, node: str) -> None:
        """kill -9 of a server with all its processes, as when the machine stops."""
        for process in self._processes(node):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def freeze(self, node: str) -> None:
        for process in self._processes(node):
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self, node: str) -> None:
        for process in reversed(self._processes(node)):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def pause_replay(self, node: str) -> None:
        self.insist(node, "SELECT pg_wal_replay_pause()")
        wait_for(lambda: self.is_paused(node), f"{node} replays nothing")

    def is_paused(self, node: str) -> bool:
        ((paused,),) = self.sql(node, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
        return bool(paused)

    def resume_replay(self, node: str) -> None:
        """Nothing happens on a node that has been promoted."""
        self.insist(node, "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume() END")

    def fail_over(self, shard: str, to: str = "") -> float:
        """`flask shards failover`; how many seconds it took. Raises `SystemExit` with its words."""
        began = time.monotonic()
        wish = ["--to", to] if to else []
        ran = self._run("-m", "flask", "--app", "app", "shards", "failover", shard, *wish)
        if ran.returncode:
            raise SystemExit(f"flask shards failover {shard}: {ran.stdout}{ran.stderr}")
        return time.monotonic() - began

    def await_whole(self, shard: str) -> None:
        """Wait until every replica follows the primary and has replayed what that has written by now.

        One that was failed over comes back by itself: the cluster's supervisor sees to that.
        """
        wait_for(lambda: self._is_whole(shard), f"{shard} is whole")

    def delay_replay(self, milliseconds: int) -> None:
        """Have every replica replay so much later than it receives; 0: at once."""
        for node in self.nodes:
            self.insist(node, f"ALTER SYSTEM SET recovery_min_apply_delay = {milliseconds}")
            self.insist(node, "SELECT pg_reload_conf()")

    def workers(self) -> list[psutil.Process]:
        """The service's."""
        return psutil.Process(self._pid("http")).children()

    def switch(self, flag: str, *, enabled: bool) -> None:
        with Wire(self.address) as wire:
            answer = wire.request("PUT", f"/v1/admin/flags/{flag}", self.operator, {"enabled": enabled})
        if not answer.good:
            raise SystemExit(f"{flag}: {answer.body.decode()}")

    def _is_whole(self, shard: str) -> bool:
        with suppress(psycopg.Error, SystemExit):
            primary = self.primary(shard)
            behind = self.sql(
                primary,
                "SELECT application_name, state = 'streaming' AND pg_current_wal_flush_lsn() <= replay_lsn"
                " FROM pg_stat_replication",
            )
            others = {node for node in self.of_shard(shard) if node != primary}
            return {name for name, replayed in behind if replayed} >= others
        return False

    def processes(self) -> list[dict[str, Any]]:
        """As `$VAR/cluster.json` lists them."""
        found: list[dict[str, Any]] = self._described()["processes"]
        return found

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=config.ROOT,
            env={**os.environ, "VAR": str(self.var)},
            capture_output=True,
            text=True,
            check=False,
        )

    def _processes(self, node: str) -> list[psutil.Process]:
        """The server's main process, then its children: it bears none while they are dealt with, if it goes first."""
        itself = psutil.Process(self._pid(node))
        return [itself, *itself.children(recursive=True)]

    def _pid(self, name: str) -> int:
        return next(int(each["pid"]) for each in self._described()["processes"] if each["name"] == name)

    def _described(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.var / "cluster.json").read_text())
        except FileNotFoundError as error:
            raise SystemExit(f"nothing runs in {self.var}: make up starts it") from error
        return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Raises `SystemExit` where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)
