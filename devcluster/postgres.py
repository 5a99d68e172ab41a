"""One PostgreSQL server: made once, started and stopped many times.

A server is made under a temporary name and renamed when it is complete, so that a start that was killed half-way
leaves nothing that looks like a server. Which node of a shard is primary stands on disk alone (`standby.signal`).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from devcluster import postgres_settings
from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import Launcher, Process
from devcluster.programs import Programs
from devcluster.topology import HOST, PostgresNode

ADMINISTRATOR = "postgres"
# A fast shutdown waits until the replicas have everything. A server that does not get there is aborted, which
# loses nothing that was committed, and at last killed.
STOP_SIGNALS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# Crash recovery after a kill -9 under load takes a while.
_START_SECONDS = 120.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Postgres:
    """The PostgreSQL servers of one cluster: what they share. `passwords` has an entry for each role."""

    layout: Layout
    programs: Programs
    launcher: Launcher
    passwords: Mapping[str, str]
    durable: bool = True

    def folder(self, node: PostgresNode) -> Path:
        return self.layout.server(node.name)

    def made(self, node: PostgresNode) -> bool:
        return self.folder(node).exists()

    def is_standby(self, node: PostgresNode) -> bool:
        return (self.folder(node) / "standby.signal").exists()

    def timeline(self, node: PostgresNode) -> int:
        """The timeline a server is on: each promotion begins a new one, and leaves a history file."""
        histories = (self.folder(node) / "pg_wal").glob("????????.history")
        return max((int(path.stem, 16) for path in histories), default=1)

    def check_version(self, node: PostgresNode) -> None:
        found = (self.folder(node) / "PG_VERSION").read_text().strip()
        if found != str(self.programs.postgres_major):
            raise ClusterError(
                f"{self.folder(node)} is data of PostgreSQL {found}, and the programs are "
                f"{self.programs.postgres_version}: set POSTGRES_BIN to the programs of PostgreSQL {found}, "
                "or make clean (which deletes the data)"
            )

    def make_primary(self, node: PostgresNode) -> None:
        """A new, empty server: data checksums, UTF-8, passwords by SCRAM."""
        folder = self._temporary(node)
        password = self.layout.data / f".password-{node.name}"
        _write_new(password, self.passwords[ADMINISTRATOR])
        self.layout.account.give(password)
        try:
            self.launcher.command(
                [
                    self.programs.postgres / "initdb",
                    f"--pgdata={folder}",
                    f"--username={ADMINISTRATOR}",
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--data-checksums",
                    "--encoding=UTF8",
                    *postgres_settings.locale_arguments(self.programs.postgres_major),
                    *(() if self.durable else ("--no-sync",)),
                ]
            )
        finally:
            password.unlink()
        own = (folder / "postgresql.conf").read_text()
        # Last, so that it wins; what a person sets with ALTER SYSTEM wins over both.
        self._install(folder / "postgresql.conf", f"{own}\ninclude '{postgres_settings.FILE}'\n")
        folder.rename(self.folder(node))

    def make_replica(self, node: PostgresNode, primary: PostgresNode) -> None:
        """A copy of the running primary that follows it, with a replication slot of its own."""
        folder = self._temporary(node)
        with self.connect(primary) as connection:  # made for a later primary, or by a try that was killed
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [node.slot],
            )
        self.launcher.command(
            [
                self.programs.postgres / "pg_basebackup",
                f"--pgdata={folder}",
                f"--host={HOST}",
                f"--port={primary.port}",
                f"--username={postgres_settings.REPLICATION_ROLE}",
                "--no-password",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--create-slot",
                f"--slot={node.slot}",
                *(() if self.durable else ("--no-sync", "--no-manifest")),
            ],
            environ={"PGPASSWORD": self.passwords[postgres_settings.REPLICATION_ROLE]},
        )
        self._install(folder / "standby.signal", "")
        folder.rename(self.folder(node))

    def remove(self, node: PostgresNode) -> None:
        """Delete a stopped replica's folder, so that it is made anew."""
        if not self.is_standby(node):
            raise ClusterError(f"{node.name} is no replica: its data stays")
        shutil.rmtree(self.folder(node))

    def start(self, node: PostgresNode, siblings: Sequence[PostgresNode]) -> Process:
        """Start it and wait until it takes connections. Raises `ClusterError` with the server's own reason."""
        folder = self.folder(node)
        password = self.passwords[postgres_settings.REPLICATION_ROLE]
        self._install(folder / postgres_settings.PASSWORD_FILE, postgres_settings.password_line(password))
        text = postgres_settings.text(node, siblings, self.programs.postgres_major, durable=self.durable)
        self._install(folder / postgres_settings.FILE, text)
        # Whatever ran in this folder was stopped before: a pid that another program has got since would only
        # keep the server from starting.
        (folder / "postmaster.pid").unlink(missing_ok=True)
        log = self.layout.log(node.name)
        logged_before = log.stat().st_size if log.exists() else 0
        program = self.programs.postgres / "postgres"
        process = self.launcher.server(node.name, "postgres", [program, "-D", folder], cwd=folder)
        deadline = time.monotonic() + _START_SECONDS
        while not self._accepts(folder, process.pid):
            self.launcher.check()
            if not self.launcher.alive(process):
                raise ClusterError(f"{node.name} did not start: {_reason(log, logged_before)} (in {log})")
            if time.monotonic() > deadline:
                raise ClusterError(f"{node.name} is not ready after {_START_SECONDS:.0f} s: see {log}")
            time.sleep(_POLL_SECONDS)
        return process

    def connect(self, node: PostgresNode, database: str = "postgres") -> psycopg.Connection:
        """An autocommit connection as the administrator."""
        return psycopg.connect(
            host=HOST,
            port=node.port,
            dbname=database,
            user=ADMINISTRATOR,
            password=self.passwords[ADMINISTRATOR],
            autocommit=True,
            connect_timeout=10,
        )

    def prepare_slots(self, node: PostgresNode, siblings: Sequence[PostgresNode]) -> None:
        """Give a server a slot for each sibling, so that it can serve them from the moment it is promoted.

        A slot that was never used keeps no WAL.
        """
        with self.connect(node) as connection:
            for sibling in siblings:
                if sibling != node:
                    connection.execute(
                        "SELECT pg_create_physical_replication_slot(%(slot)s) WHERE NOT EXISTS"
                        " (SELECT FROM pg_replication_slots WHERE slot_name = %(slot)s)",
                        {"slot": sibling.slot},
                    )

    def slot_is_lost(self, node: PostgresNode, primary: PostgresNode) -> bool:
        """Whether the primary has thrown away WAL that this replica still needed."""
        with self.connect(primary) as connection:
            lost = connection.execute(
                "SELECT FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'", [node.slot]
            )
            return lost.rowcount > 0

    def _temporary(self, node: PostgresNode) -> Path:
        folder = self.layout.data / f".making-{node.name}"
        folder.mkdir(mode=0o700)
        self.layout.account.give(folder)
        return folder

    def _install(self, path: Path, text: str) -> None:
        """Put a file into a server's folder, by a rename: that follows no link which may lie there."""
        temporary = self.layout.data / f".installing-{path.parent.name.lstrip('.')}-{path.name}"
        temporary.unlink(missing_ok=True)
        _write_new(temporary, text)
        self.layout.account.give(temporary)
        temporary.rename(path)

    @staticmethod
    def _accepts(folder: Path, pid: int) -> bool:
        """By the last line of postmaster.pid, as pg_ctl does: "ready" once connections are accepted."""
        try:
            lines = (folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return lines[:1] == [str(pid)] and lines[7:] != [] and lines[7].strip() == "ready"


def _write_new(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _reason(log: Path, skip_bytes: int) -> str:
    with log.open("rb") as file:
        file.seek(skip_bytes)
        lines = file.read().decode(errors="replace").splitlines()
    fatal = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:"))]
    return (fatal or lines or ["it wrote nothing to its log"])[-1].strip()
