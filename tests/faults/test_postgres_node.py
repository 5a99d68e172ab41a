"""deploy/postgres-node on real servers: three nodes of a shard in a network of their own, as containers have one.

Needs root, to make such a network and to be another user in it, and Linux.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devcluster import programs
from devcluster.account import Account
from tests.cluster_fixtures import ROOT
from tests.shard_servers import until
from tests.supervised import PATIENCE_SECONDS, wait_until

A, B, C = "shard-0-a", "shard-0-b", "shard-0-c"
NODES = {A: "127.0.0.2", B: "127.0.0.3", C: "127.0.0.4"}
PASSWORD = "secret"


class Network:
    """The nodes by their names. A few words of shell stand in for the image's `gosu`."""

    def __init__(self, folder: Path, inside: list[str]) -> None:
        self.folder, self.inside = folder, inside
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        for name in NODES:
            (folder / name).mkdir()
        shims = folder / "bin"
        shims.mkdir()
        real = programs.postgres_folder({})
        _program(
            shims / "gosu",
            'user=$1; shift; exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"',
        )
        # Their sockets would meet in one folder, where containers have one each.
        _program(shims / "postgres", f"exec '{real}/postgres' \"$@\" -c unix_socket_directories=''")
        path = f"{shims}:{real}:{os.environ['PATH']}"
        self.environ = {"PATH": path, "LC_ALL": "C", "PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "2"}

    def data(self, name: str) -> Path:
        return self.folder / name / "data"

    def aside(self, name: str) -> Path:
        return self.folder / name / "data.rejoining"

    def begin(self, name: str) -> subprocess.Popen[bytes]:
        environ = {
            **self.environ,
            "NODE": name,
            "SHARD_NODES": " ".join(NODES),
            "DATABASES": "marketplace",
            "BOOTSTRAP": str(ROOT / "sql" / "bootstrap"),
            "PGDATA": str(self.data(name)),
            "LISTEN": NODES[name],
            **{f"{role}_PASSWORD": PASSWORD for role in ("POSTGRES", "REPLICATION", "APP")},
        }
        command = [*self.inside, "bash", str(ROOT / "deploy" / "postgres-node")]
        with self.log(name).open("ab") as log:
            begun = subprocess.Popen(
                command, cwd="/", env=environ, stdout=log, stderr=log, start_new_session=True
            )
        self.running[name] = begun
        return begun

    def start(self, name: str) -> None:
        begun = self.begin(name)
        wait_until(lambda: begun.poll() is not None or self.sql(name, "SELECT 1") == "1")
        assert begun.poll() is None, self.log(name).read_text()[-3000:]

    def stop(self, name: str, number: int = signal.SIGINT) -> None:
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(PATIENCE_SECONDS)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def sql(self, name: str, text: str) -> str:
        """What one statement answered, without spaces at its ends; empty where it failed."""
        psql = [*self.inside, "psql", "-X", "-q", "-A", "-t", "-h", name, "-U", "postgres", "-d", "postgres"]
        done = subprocess.run(
            [*psql, "-c", text], env=self.environ, capture_output=True, text=True, check=False, cwd="/"
        )
        return done.stdout.strip()

    def promote(self, name: str) -> None:
        assert self.sql(name, "SELECT pg_promote()") == "t"

    def until_follows(self, name: str, primary: str) -> None:
        query = "SELECT sender_host FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        wait_until(lambda: self.sql(name, query) == primary)

    def until_has(self, name: str, values: str) -> None:
        wait_until(lambda: self.sql(name, "SELECT string_agg(value::text, ' ') FROM written") == values)


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@contextmanager
def network_of_its_own(folder: Path) -> Iterator[list[str]]:
    """A network and an /etc/hosts of its own; yields the words that put a command into it."""
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in NODES.items()))
    prepare = 'ip link set lo up && mount --bind "$1" /etc/hosts && echo ready && exec sleep infinity'
    holder = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", prepare, "sh", str(hosts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None
            said = holder.stdout.readline()
            if said != "ready\n":
                pytest.skip(f"no network of its own can be made here: {said}")
            yield ["nsenter", "--target", str(holder.pid), "--net", "--mount"]
        finally:
            holder.kill()


@pytest.fixture
def network() -> Iterator[Network]:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root on Linux")
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("needs a user postgres, as the image has one")
    if not Account("postgres", user.pw_uid, user.pw_gid).reads(programs.postgres_folder({}) / "postgres"):
        pytest.skip("the user postgres cannot reach the programs")
    with tempfile.TemporaryDirectory() as temporary:  # short: a socket's path goes in there
        folder = Path(temporary)
        folder.chmod(0o755)
        with network_of_its_own(folder) as inside:
            network = Network(folder, inside)
            try:
                yield network
            finally:
                for name in list(network.running):
                    network.stop(name, signal.SIGQUIT)


def test_a_node_that_was_failed_over_comes_back_as_a_replica_when_it_is_restarted(network: Network) -> None:
    for name in NODES:
        network.start(name)
    network.sql(A, "CREATE TABLE written (value integer)")
    network.sql(A, "INSERT INTO written VALUES (1)")
    for name in NODES:
        slots = network.sql(
            name, "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots"
        )
        assert slots == " ".join(other.replace("-", "_") for other in NODES if other != name)

    for name in (B, C):
        network.stop(name)
    assert (
        network.sql(A, "SET synchronous_commit = local; INSERT INTO written VALUES (13) RETURNING value")
        == "13"
    )
    network.stop(A, signal.SIGKILL)
    for name in (B, C):
        network.start(name)
    network.promote(B)
    network.until_follows(C, B)
    network.sql(C, "ALTER SYSTEM SET primary_conninfo = 'host=nowhere'")
    network.sql(A, "ALTER SYSTEM SET work_mem = '5MB'")

    network.start(A)
    network.until_follows(A, B)
    network.until_has(A, "1")
    assert "copying" not in network.log(A).read_text()
    assert network.sql(A, "SELECT slot_name FROM pg_replication_slots WHERE restart_lsn IS NOT NULL") == ""
    network.stop(C)
    network.start(C)
    network.until_follows(C, B)


def test_a_way_back_that_is_cut_short_begins_no_second_cluster(network: Network) -> None:
    for name in NODES:
        network.start(name)
    network.sql(A, "CREATE TABLE written (value integer)")
    network.sql(A, "INSERT INTO written VALUES (1)")
    network.stop(A, signal.SIGKILL)
    network.promote(B)
    network.until_follows(C, B)

    begun = network.begin(A)
    until(lambda: network.aside(A).exists() or begun.poll() is not None)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    network.stop(B)
    alone = network.begin(A)
    assert alone.wait(PATIENCE_SECONDS) == 1
    assert "no other node of the shard accepts writes" in network.log(A).read_text()
    assert not network.data(A).exists()

    network.start(B)
    network.start(A)
    network.until_follows(A, B)
    network.until_has(A, "1")
    assert not network.aside(A).exists()


def test_of_two_primaries_the_one_on_the_newest_timeline_starts_and_the_other_comes_back(
    network: Network,
) -> None:
    for name in NODES:
        network.start(name)
    network.promote(B)
    network.stop(B)
    network.start(B)
    assert network.sql(A, "SELECT pg_is_in_recovery()") == network.sql(B, "SELECT pg_is_in_recovery()") == "f"
    network.stop(A, signal.SIGQUIT)
    network.start(A)
    network.until_follows(A, B)
