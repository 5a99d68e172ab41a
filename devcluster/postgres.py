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

from devcluster import lineage, postgres_settings, slots
from devcluster.errors import ClusterError, OffLineage
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
_ALTER_SYSTEM_FILE = "postgresql.auto.conf"
# What PostgreSQL says of a replica whose recovery went past the point at which the primary's timeline begins.
_OFF_LINEAGE = ("is not a child of this server's history", "does not contain minimum recovery point")
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
        return lineage.is_standby(self.folder(node))

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
        folder = self._make_temporary(node)
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
        folder = self._make_temporary(node)
        with self.connect(primary) as connection:  # made for a later primary, or by a try that was killed
            slots.drop(connection, node.slot)
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
            environ={
                "PGPASSWORD": self.passwords[postgres_settings.REPLICATION_ROLE],
                "PGAPPNAME": f"rejoin {node.name}",  # whoever looks at the primary sees for whom
            },
            cwd=folder,  # by which it is found, should whoever started it be killed
        )
        self.adopt(node, folder)

    def adopt(self, node: PostgresNode, folder: Path) -> None:
        """Make a complete folder this node's own, as a replica: from no moment on could it start as a primary."""
        self._install(folder / lineage.STANDBY_SIGNAL, "")
        folder.rename(self.folder(node))

    def altered(self, folder: Path) -> str:
        """What was set with ALTER SYSTEM, but for whom to follow: `postgres_settings` knows that at each start."""
        path = folder / _ALTER_SYSTEM_FILE
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return "".join(line for line in lines if not line.startswith("primary_conninfo "))

    def alter(self, node: PostgresNode, text: str) -> None:
        """Write what `altered` returned, while the server is stopped."""
        self._install(self.folder(node) / _ALTER_SYSTEM_FILE, text)

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
        primary = lineage.newest_primaries({each: self.folder(each) for each in siblings})
        ordered = sorted(siblings, key=lambda each: each not in primary)
        text = postgres_settings.text(node, ordered, self.programs.postgres_major, durable=self.durable)
        self._install(folder / postgres_settings.FILE, text)
        # A failover sets whom to follow with ALTER SYSTEM, and copying a server copies that too; ports may have
        # changed since.
        self.alter(node, self.altered(folder))
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
                reason = _reason(log, logged_before)
                kind = OffLineage if any(words in reason for words in _OFF_LINEAGE) else ClusterError
                raise kind(f"{node.name} did not start: {reason} (in {log})")
            if time.monotonic() > deadline:
                raise ClusterError(f"{node.name} is not ready after {_START_SECONDS:.0f} s: see {log}")
            time.sleep(_POLL_SECONDS)
        return process

    def connect(
        self, node: PostgresNode, database: str = "postgres", *, timeout_seconds: int = 10
    ) -> psycopg.Connection:
        """An autocommit connection as the administrator."""
        return psycopg.connect(
            host=HOST,
            port=node.port,
            dbname=database,
            user=ADMINISTRATOR,
            password=self.passwords[ADMINISTRATOR],
            autocommit=True,
            connect_timeout=timeout_seconds,
        )

    def prepare_slots(self, node: PostgresNode, siblings: Sequence[PostgresNode]) -> None:
        """Give a server a slot for each sibling, so that it can serve them from the moment it is promoted."""
        with self.connect(node) as connection:
            slots.prepare(connection, [sibling.slot for sibling in siblings if sibling != node])

    def slot_is_lost(self, node: PostgresNode, primary: PostgresNode) -> bool:
        """Whether the primary has thrown away WAL that this replica still needed."""
        with self.connect(primary) as connection:
            return slots.is_lost(connection, node.slot)

    def temporary(self, node: PostgresNode) -> Path:
        """Where a server lies while it is made."""
        return self.layout.data / f".making-{node.name}"

    def _make_temporary(self, node: PostgresNode) -> Path:
        folder = self.temporary(node)
        if folder.exists():  # of a try that failed
            shutil.rmtree(folder)
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
