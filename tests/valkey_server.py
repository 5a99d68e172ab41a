"""One Valkey that a test may stop, freeze and start again, apart from any cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import redis

from devcluster.programs import valkey_program
from devcluster.topology import HOST
from tests.cluster_fixtures import free_ports
from tests.shard_servers import until

PASSWORD = "of-a-test"


class ValkeyServer:
    """It keeps over a restart what `SAVE` wrote, if that is asked for. `admin` is a client of the test's own."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = free_ports(1) if port is None else port
        self.url = f"redis://:{PASSWORD}@{HOST}:{self.port}/0"
        self._options = options
        self.admin = redis.Redis.from_url(self.url, protocol=2)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--bind", HOST, "--port", str(self.port), "--requirepass", PASSWORD, "--save", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [valkey_program(os.environ), *options, "--tcp-backlog", "128", *self._options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        until(self._answers)

    def kill(self) -> None:
        """As a crash does: without a chance to write anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *, with_snapshot: bool = False) -> None:
        self.kill()
        if not with_snapshot:
            (self._folder / "dump.rdb").unlink(missing_ok=True)
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections to it are made and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def dead(self) -> Iterator[None]:
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def full(self) -> Iterator[None]:
        """It answers `OOM` to whatever takes memory."""
        self.admin.config_set("maxmemory", "1")
        try:
            yield
        finally:
            self.admin.config_set("maxmemory", "0")

    @contextmanager
    def replica(self) -> Iterator[None]:
        """It answers `READONLY` to whatever writes."""
        self.admin.replicaof(HOST, str(free_ports(1)))
        try:
            yield
        finally:
            self.admin.replicaof("NO", "ONE")

    def broken(self, how: str) -> AbstractContextManager[None]:
        """By the name of one of these."""
        ways = {"frozen": self.frozen, "dead": self.dead, "full": self.full, "replica": self.replica}
        return ways[how]()

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    with tempfile.TemporaryDirectory(prefix="infinite-scaling-valkey-") as folder:
        server = ValkeyServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.admin.close()
            server.kill()
