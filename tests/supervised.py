"""A cluster as `make up` runs it: a supervisor in a process of its own, and the commands beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from devcluster.control import described, open_layout
from devcluster.layout import Layout
from devcluster.processes import Launcher, Process
from devcluster.shutdown import leftovers
from tests.cluster_fixtures import ROOT, free_ports

PATIENCE_SECONDS = 60.0


class Place:
    """A data folder and ports of its own, and the commands on it. One shard, by default of two nodes, for speed."""

    def __init__(self, folder: Path, replicas: int = 1) -> None:
        # Deeper than a Unix socket's path may be, and with spaces.
        self.var = folder / "a folder with spaces" / ("long " * 30).strip()
        self.replicas = replicas
        self.first_port = free_ports(replicas + 4)

    @property
    def layout(self) -> Layout:
        return open_layout(self.var, {})

    @property
    def environ(self) -> dict[str, str]:
        ports = {"CLUSTER_PORT": str(self.first_port), "PORT": str(self.first_port + self.replicas + 3)}
        return {**os.environ, **ports, "VAR": str(self.var)}

    def start(self) -> subprocess.Popen[str]:
        small = ["--no-fsync", "--servers-only", "--shards=1", f"--replicas={self.replicas}", "--locks=0"]
        return subprocess.Popen(
            [sys.executable, "-m", "devcluster", "up", *small],
            cwd=ROOT,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[str]]:
        """A started cluster, stopped by SIGTERM at the end unless it has ended before."""
        with self.start() as process:
            try:
                wait_until(lambda: self.layout.processes.exists() or process.poll() is not None)
                assert process.poll() is None, process.communicate()[0]
                yield process
            finally:
                process.terminate()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "devcluster", *command]
        return subprocess.run(argv, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False)

    def running(self) -> list[Process]:
        layout = self.layout
        return leftovers(layout, Launcher(layout.account, layout.records, layout.logs))

    def pid(self, name: str) -> int:
        return int(next(each["pid"] for each in described(self.layout) if each["name"] == name))

    def connect(self, name: str = "shard-0-a") -> psycopg.Connection:
        dsn = next(each["dsn"] for each in described(self.layout) if each["name"] == name)
        return psycopg.connect(dsn, autocommit=True)

    def write(self, value: int) -> None:
        with self.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS public.written (value integer)")
            connection.execute("INSERT INTO public.written VALUES (%s)", [value])

    def read(self, name: str = "shard-0-a") -> list[int]:
        with self.connect(name) as connection:
            return [
                value for (value,) in connection.execute("SELECT value FROM public.written ORDER BY value")
            ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
