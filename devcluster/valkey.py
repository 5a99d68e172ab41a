"""One Redis-compatible server (Valkey, or a person's own Redis)."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import Launcher, Process
from devcluster.programs import Programs
from devcluster.topology import HOST, ValkeyNode

STOP_SIGNALS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
_START_SECONDS = 60.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Valkey:
    """The Redis-compatible servers of one cluster: what they share. `passwords` has one for each name."""

    layout: Layout
    programs: Programs
    launcher: Launcher
    passwords: dict[str, str]
    durable: bool = True

    def url(self, node: ValkeyNode) -> str:
        return f"redis://:{self.passwords[node.name]}@{HOST}:{node.port}/0"

    def start(self, node: ValkeyNode) -> Process:
        """Start it and wait until it answers. Raises `ClusterError` with the server's own reason."""
        folder = self.layout.server(node.name)
        if not folder.exists():
            self._make(folder)
        # Configured on standard input: a file would keep the password.
        process = self.launcher.server(
            node.name, node.kind, [self.programs.valkey, "-"], cwd=folder, text=self._configuration(node)
        )
        log = self.layout.log(node.name)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers(node):
            self.launcher.check()
            if not self.launcher.alive(process):
                raise ClusterError(f"{node.name} did not start: {_last_line(log)} (in {log})")
            if time.monotonic() > deadline:
                raise ClusterError(f"{node.name} is not ready after {_START_SECONDS:.0f} s: see {log}")
            time.sleep(_POLL_SECONDS)
        return process

    def _make(self, folder: Path) -> None:
        """Under another name, until it is the servers' account's: a start that is killed leaves no folder of root's."""
        making = folder.with_name(f".making-{folder.name}")
        making.mkdir(mode=0o700, exist_ok=True)
        self.layout.account.give(making)
        making.rename(folder)

    def _configuration(self, node: ValkeyNode) -> str:
        lines = [
            f"bind {HOST}",
            f"port {node.port}",
            f"requirepass {self.passwords[node.name]}",
            "tcp-backlog 128",  # more than the system grants makes it warn
            'save ""',
        ]
        if node.kind == "redis" and self.durable:
            lines += ["appendonly yes", "appendfsync everysec"]  # carts outlive a restart, but for a second
        else:
            lines += ["appendonly no"]  # a lock is a lease of seconds: brought back, it would mean nothing
        return "\n".join(lines) + "\n"

    def _answers(self, node: ValkeyNode) -> bool:
        try:
            with redis.Redis.from_url(self.url(node), socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:  # not listening yet, or loading its data
            return False


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1].strip() if lines else "it wrote nothing to its log"
