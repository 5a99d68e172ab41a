"""Real servers for tests: one throw-away cluster a session, fresh databases a module, the service on top.

`cluster`      the session's `devcluster.cluster.Cluster`: two shards of a primary and two replicas, Redis, three
               lock nodes. Freeze a server of it if you thaw it again; break servers of a `new_cluster` only.
`databases`    databases of this module's own, cloned from the migrated ones: `Databases`
`service`      gunicorn serving them: `Service` (base URL, settings, operator token)
`new_cluster`  starts a cluster of one's own: `new_cluster(shards=1, replicas=1, locks=0)`

As context managers, for other scopes and settings: `running_cluster`, `fresh_databases`, `serving`.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from config import Settings, load
from devcluster import bootstrap, control, publish
from devcluster.cluster import Cluster
from devcluster.layout import Layout
from devcluster.processes import start_mark
from devcluster.topology import HOST, Topology
from moves.replication import drop_strays
from pools.connection import ShardConnection

ROOT = Path(__file__).resolve().parent.parent
# Below Linux's range for outgoing connections, above what a `make up` takes.
_PORTS = range(26_000, 32_000)
_FOLDER_PREFIX = "infinite-scaling-test-"
_READY_SECONDS = 60.0

NewCluster = Callable[..., Cluster]

# The folders that clusters are copied from, to be deleted with the run.
_kept: list[Layout] = []


@dataclass(frozen=True, slots=True)
class Databases:
    """A marketplace database on every shard and a catalog: no stores yet, the ring assigned.

    `settings` lead to them, for `create_app(settings)`, a `PoolRegistry` or a subprocess (`as_environment`).
    """

    settings: Settings
    cluster: Cluster

    def dsn(self, shard: str, *, administrator: bool = False) -> str:
        """A shard's primary, as the service's role or as administrator."""
        return self._dsn(shard, self.settings.database_name, administrator=administrator)

    def catalog_dsn(self, *, administrator: bool = False) -> str:
        """The node that holds the catalog and is primary now."""
        name = f"{self.settings.database_name}_catalog"
        return self._dsn(self.cluster.topology.shard_names[0], name, administrator=administrator)

    def _dsn(self, shard: str, database: str, *, administrator: bool) -> str:
        user, password = self.settings.database_user, self.settings.database_password
        if administrator:
            user, password = self.settings.admin_user, self.settings.admin_password
        port = self.cluster.primary(shard).port
        return make_conninfo(host=HOST, port=port, dbname=database, user=user, password=password)


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. `pid` is gunicorn's main process; `log` is everything it wrote."""

    base_url: str
    settings: Settings
    operator_token: str
    pid: int
    log: Path


@pytest.fixture(scope="session", autouse=True)
def _servers_end_with_the_run() -> Iterator[None]:
    """A terminated run takes its servers with it, as an interrupted one does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    while _kept:
        control.clean(_kept.pop())


@pytest.fixture(scope="session")
def new_cluster() -> Iterator[NewCluster]:
    with ExitStack() as started:

        def start(**topology: int) -> Cluster:
            return started.enter_context(running_cluster(**topology))

        yield start


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def databases(cluster: Cluster) -> Iterator[Databases]:
    with fresh_databases(cluster) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def service(databases: Databases) -> Iterator[Service]:
    with serving(databases.settings) as running:
        yield running


@contextmanager
def running_cluster(**topology: Any) -> Iterator[Cluster]:
    """A cluster in a temporary folder, without fsync; `topology` as `Topology` takes it."""
    _remove_abandoned()
    cluster = _new_cluster(Topology(**topology), made_before=_pristine(Topology(**topology)))
    try:
        with cluster:
            try:
                yield cluster
            finally:
                _end_at_once(cluster)
    finally:
        control.clean(cluster.layout)


def _end_at_once(cluster: Cluster) -> None:
    """Without the last checkpoint, and without waiting for replicas: nobody reads these data again."""
    for process in cluster.launcher.recorded():
        if process.kind == "postgres" and cluster.launcher.alive(process):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGQUIT)


def _new_cluster(topology: Topology, made_before: Path | None) -> Cluster:
    """In a folder of its own, on free ports; with the data of one made before, if there is any."""
    var = _new_folder()
    if made_before is not None:
        # Not shutil: the servers' files keep their owner.
        subprocess.run(["cp", "-a", f"{made_before}/.", var], check=True)
    first = free_ports(len(topology) + 1)
    placed = replace(topology, first_port=first + 1)
    return Cluster(var, placed, durable=False, http_port=first, environ={})


def _new_folder() -> Path:
    var = Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-"))
    var.chmod(0o711)  # the servers' account must get through, where root runs the tests
    return var


@functools.cache
def _pristine(topology: Topology) -> Path | None:
    """The folder of a cluster that was made, and stopped before anybody used it: starting a copy takes half the time.

    None where the servers' data lies elsewhere. Goes with the run.
    """
    cluster = _new_cluster(topology, None)
    with cluster:
        pass
    if (cluster.layout.var / "data").is_symlink():
        control.clean(cluster.layout)
        return None
    _kept.append(cluster.layout)
    return cluster.layout.var


@contextmanager
def fresh_databases(cluster: Cluster, **settings: Any) -> Iterator[Databases]:
    """Databases cloned from the cluster's own, which no test touches; dropped at the end."""
    name = f"test_{secrets.token_hex(4)}"
    first, *_ = cluster.topology.shard_names
    clones = [(shard, bootstrap.SHARD_DATABASE, name) for shard in cluster.topology.shard_names]
    clones.append((first, bootstrap.CATALOG_DATABASE, f"{name}_catalog"))
    for shard, template, clone in clones:
        with cluster.postgres.connect(cluster.primary(shard)) as connection:
            # By way of the WAL: the other strategy needs checkpoints, on the replicas too.
            connection.execute(f'CREATE DATABASE "{clone}" TEMPLATE "{template}" STRATEGY wal_log')
    values = publish.settings_values(cluster) | {"DATABASE_NAME": name, "VAR": str(cluster.layout.var)}
    values["REDIS_PATIENCE_SECONDS"] = "0.5"  # on a busy machine a server that is well must not seem frozen
    values["POOL_TIMEOUT_SECONDS"] = "5"  # nor a line that moves on, if slowly, like one that stands still
    values["MOVE_ROWS_PER_SECOND"] = "0"  # nobody else is there to be spared
    values["CATALOG_DSN"] = make_conninfo(values["CATALOG_DSN"], dbname=f"{name}_catalog")
    try:
        yield Databases(replace(load(values), **settings), cluster)
    finally:
        for shard, _, clone in clones:
            _drop_replication(cluster, shard, clone)
            with cluster.postgres.connect(cluster.primary(shard)) as connection:
                # A test may have left a primary without the replica that would have to confirm.
                connection.execute("SET synchronous_commit = local")
                connection.execute(f'DROP DATABASE "{clone}" WITH (FORCE)')


def _drop_replication(cluster: Cluster, shard: str, database: str) -> None:
    """What a move has left that a test broke off: a database with a slot or a subscription cannot be dropped."""
    node = cluster.primary(shard)
    dsn = bootstrap.administrator_dsn(cluster.postgres, node, database)
    with ShardConnection.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = local")
        drop_strays(connection, set)


@contextmanager
def serving(
    settings: Settings,
    *,
    application: str = "app:create_app()",
    program: Sequence[str] = ("-m", "gunicorn"),
    **changed: Any,
) -> Iterator[Service]:
    """gunicorn with these settings on a free port, ready; killed at the end, with whatever it started."""
    port = free_ports(1)
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as folder:
        settings = replace(settings, var=Path(folder), port=port, **changed)
        log = Path(folder) / "service.log"
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *program, "-c", "gunicorn.conf.py", application],
                cwd=ROOT,
                env=inherited | as_environment(settings),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        base_url = f"http://{HOST}:{port}"
        try:
            _wait_until_ready(base_url, process, log)
            yield Service(base_url, settings, settings.operator_token, process.pid, log)
        finally:
            # A graceful stop takes a second, and has tests of its own. Also workers whose parent a test has killed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def as_environment(settings: Settings) -> dict[str, str]:
    """The environment in which `config.load()` gives these settings."""
    return {field.name.upper(): str(getattr(settings, field.name)) for field in fields(settings)}


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens on, and no test beside this one is about to."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = _PORTS[len(_PORTS) * number // processes : len(_PORTS) * (number + 1) // processes]
    for _ in range(200):
        first = random.randrange(mine.start, mine.stop - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError(f"no {count} free ports in {mine}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
        return True


def _wait_until_ready(base_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            with opener.open(f"{base_url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the service is not ready ({error}); it wrote:\n{log.read_text()}"
                ) from error
        time.sleep(0.05)


def _remove_abandoned() -> None:
    """Stop and delete what a killed run left. A cluster's folder names the process that made it.

    One process after the other: whoever cleans holds the cluster's lock, and another would take it for its supervisor,
    which is asked to stop.
    """
    with (Path(tempfile.gettempdir()) / f"{_FOLDER_PREFIX}{os.geteuid()}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        _remove_abandoned_alone()


def _remove_abandoned_alone() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*-*"):
        maker = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        ours = maker.isdecimal() and folder.is_dir() and folder.stat().st_uid == os.geteuid()
        if not ours or start_mark(int(maker)) is not None:
            continue
        if (folder / "lock").exists():
            control.clean(control.open_layout(folder, {}))
        else:
            with suppress(OSError):
                folder.rmdir()
