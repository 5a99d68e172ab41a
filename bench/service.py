"""gunicorn on a free port, with settings of a benchmark's own, on the servers of a data folder."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from config import ROOT
from lab.servers import wait_for
from lab.wire import DroppedError, Wire

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Service:
    """`pid` is gunicorn's main process."""

    address: str
    pid: int


@contextmanager
def service(
    var: Path, *, application: str = "app:create_app()", root: str = str(ROOT), **settings: str
) -> Iterator[Service]:
    """Until the block ends. `root`: the tree whose service it is. `settings` are environment variables."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        own = {"VAR": str(var), "PORT": str(port), "METRICS_DIR": str(Path(folder) / "metrics")}
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", application]
        with log.open("w") as output:
            environment = {**os.environ, **own, **settings}
            process = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=output)
        try:
            address = f"{HOST}:{port}"
            wait_for(lambda: process.poll() is not None or _is_ready(address), "the service is ready")
            if process.poll() is not None:
                raise SystemExit(f"the service did not start:\n{log.read_text()}")
            yield Service(address, process.pid)
        finally:
            process.terminate()
            process.wait()


def _is_ready(address: str) -> bool:
    with suppress(DroppedError), Wire(address) as wire:
        return wire.request("GET", "/readyz").good
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports, below Linux's range for outgoing connections."""
    while True:
        first = random.randrange(20_000, 32_000)  # noqa: S311
        with ExitStack() as probes, suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind((HOST, port))
            return first
