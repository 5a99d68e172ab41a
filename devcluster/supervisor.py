"""`up`: the cluster and the service in the foreground, until a signal or the service's own end."""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from devcluster import demo, growth, publish
from devcluster.cluster import Cluster
from devcluster.errors import ClusterError, Interrupted
from devcluster.processes import Process
from devcluster.removal import ROOT
from devcluster.watch import Watch

_READY_SECONDS = 60.0
_WATCH_SECONDS = 0.5
_POLL_SECONDS = 0.05


class StopRequest:
    """Whether a signal asked for the end: set by a handler, waited for by the main thread, both in one thread.

    Not a `threading.Event`: a handler runs between any two steps of the thread it interrupts, also while that one
    holds the event's lock in `wait`, and `set` would then wait for it forever.
    """

    def __init__(self) -> None:
        self._asked = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def set(self) -> None:
        self._asked = True
        with suppress(BlockingIOError):  # full: whoever waits is woken already
            os.write(self._writer, b"!")

    def wait(self, seconds: float) -> bool:
        """Wait for it, so long at most; whether it came."""
        if not self._asked:
            select.select([self._reader], [], [], seconds)
        return self._asked


def supervise(cluster: Cluster, *, serve: bool = True) -> int:
    """Start everything, keep watch, and stop everything. Returns the exit status."""
    stopping = StopRequest()
    with _stopped_by_signals(stopping, cluster):
        try:
            return _run(cluster, stopping, serve=serve)
        except Interrupted:
            return 0
        finally:
            if cluster.held:
                say("stopping")
                cluster.stop()
                say("stopped; the data stays")


def say(line: str) -> None:
    """Print a line; to nobody where the terminal or the pipe is gone, because the stop must go on."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(cluster: Cluster, stopping: StopRequest, *, serve: bool) -> int:
    began = time.monotonic()
    cluster.start()
    http = _start_service(cluster) if serve else None
    store_id = None
    if http:
        store_id = _seed(cluster)
        _wait_until_ready(cluster, http)
        publish.processes(cluster)
    say(f"\nup in {time.monotonic() - began:.1f} s; Ctrl-C stops everything, the data stays\n")
    say(_next_steps(cluster, store_id) if http else f"the servers' addresses: {cluster.layout.processes}")
    with Watch(cluster) as watch:
        try:
            return _watch(cluster, http, stopping, watch)
        finally:
            cluster.launcher.interrupt()  # what is being brought back must not keep anyone from stopping


@contextmanager
def _stopped_by_signals(stopping: StopRequest, cluster: Cluster) -> Iterator[None]:
    """A signal ends the run in order, and only once: a second Ctrl-C must not cut the stop short."""

    def handle(_number: int, _frame: object) -> None:
        stopping.set()
        cluster.launcher.interrupt()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_service(cluster: Cluster) -> Process:
    environ = {**os.environ, **publish.settings_values(cluster), "VAR": str(cluster.layout.var)}
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
    return cluster.launcher.server("http", "http", command, cwd=ROOT, environ=environ, as_oneself=True)


def _seed(cluster: Cluster) -> str | None:
    """Demo data, while the service starts. Without them the service is up as well."""
    try:
        return demo.ensure(cluster)
    except Interrupted:
        raise
    except ClusterError as error:
        say(f"no demo data this time: {error}")
        return None


def _wait_until_ready(cluster: Cluster, process: Process) -> None:
    url = f"{publish.base_url(cluster)}/readyz"
    log = cluster.layout.log(process.name)
    deadline = time.monotonic() + _READY_SECONDS
    while not _answers(url):
        cluster.launcher.check()
        if not cluster.launcher.alive(process):
            raise ClusterError(f"the service did not start: see {log}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{url} is not 200 after {_READY_SECONDS:.0f} s: see {log}")
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    # No proxy: one that the environment names would be asked for 127.0.0.1 too.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _watch(cluster: Cluster, http: Process | None, stopping: StopRequest, watch: Watch) -> int:
    """Say which server has died, once each.

    It stays down: whoever kills a server wants to see what then happens. Where a failover does, `watch` brings the
    server back. The service's end is the run's.
    """
    told: set[Process] = set()
    while not stopping.wait(_WATCH_SECONDS):
        cluster.reload()
        watch.follow()
        for process in cluster.launcher.recorded():
            if process in told or cluster.launcher.alive(process) or process.name in watch.busy:
                continue
            if process not in cluster.launcher.recorded():  # brought back meanwhile
                continue
            if growth.is_unfinished(cluster.layout, process.name):  # stopped on purpose
                continue
            told.add(process)
            log = cluster.layout.log(process.name)
            if process == http:
                raise ClusterError(f"the service (process {process.pid}) has ended: see {log}")
            again = f".venv/bin/python -m devcluster start {process.name}"
            say(f"{process.name} (process {process.pid}) has died: see {log}; to start it again: {again}")
    return 0


def _next_steps(cluster: Cluster, store_id: str | None) -> str:
    layout, url = cluster.layout, publish.base_url(cluster)
    token, key = shlex.quote(str(layout.operator_token)), shlex.quote(str(layout.demo_merchant_key))
    lines = [
        f"  {url}       what runs here",
        f"  {url}/docs  the API, to read and to try",
        "",
        f"  operator token    {layout.operator_token}",
    ]
    requests = [f'  curl -H "Authorization: Bearer $(cat {token})" {url}/v1/admin/topology']
    if store_id:
        lines += [f"  demo store        {store_id}", f"  its merchant key  {layout.demo_merchant_key}"]
        requests = [
            f"  curl '{url}/v1/stores/{store_id}/products?limit=3'",
            f'  curl -H "Authorization: Bearer $(cat {key})" {url}/v1/stores/{store_id}/orders',
            *requests,
        ]
    return "\n".join([*lines, "", "try:", *requests, "  make psql NODE=shard-0-primary", ""])
