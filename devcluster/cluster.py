"""All servers of one cluster together: mended, made, started side by side, and stopped in order."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from devcluster import (
    bootstrap,
    credentials,
    growth,
    lineage,
    postgres,
    programs,
    publish,
    rejoin,
    shutdown,
    standing,
    valkey,
)
from devcluster.account import server_account
from devcluster.errors import ClusterError, Interrupted, OffLineage
from devcluster.layout import Layout
from devcluster.processes import Launcher
from devcluster.topology import PostgresNode, Topology, ValkeyNode, port_is_free

# Less than one segment of WAL: no server starts, whatever it says of it.
_FULL_BYTES = 16 * 1024 * 1024


class Cluster:
    """The embedded cluster in a data folder, as a context manager: started on entry, stopped on exit.

    `durable=False` is for throw-away data: the servers then skip every fsync. `report` gets a line for each
    step. A method raises `ClusterError`, in one line, where something is in the way. Good for one start.
    """

    def __init__(
        self,
        var: Path,
        topology: Topology | None = None,
        *,
        durable: bool = True,
        http_port: int = 8000,
        environ: Mapping[str, str] | None = None,
        report: Callable[[str], object] = lambda _line: None,
    ) -> None:
        self.topology = topology or Topology()
        self.durable = durable
        self.http_port = http_port
        self.environ = os.environ if environ is None else environ
        self.report = report
        account = server_account(self.environ)
        if not var.exists():
            var.mkdir(parents=True)
            # The servers' account must get through; what is secret in here has a mode of its own.
            var.chmod(0o711 if account.demotion else 0o700)
        self.layout = Layout(var.resolve(), account)
        self.launcher = Launcher(account, self.layout.records, self.layout.logs)
        self._held = ExitStack()

    @classmethod
    def running(cls, layout: Layout, environ: Mapping[str, str]) -> Self:
        """The cluster that another process supervises. Raises `ClusterError` where none does."""
        if layout.holder() is None:
            raise ClusterError(f"nothing runs in {layout.var}: make up starts it")
        started = json.loads(layout.topology.read_text())
        topology = Topology(**started.pop("topology"))
        cluster = cls(layout.var, topology, **started, environ=environ)
        cluster.reload()
        return cluster

    def reload(self) -> None:
        """Take in which shards were added and taken away, by this process or another."""
        self.topology = growth.applied(self.topology, growth.read(self.layout))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Hold the data folder, start every server, migrate, and say in `$VAR` where everything is."""
        self.hold()
        self.layout.make()
        self.reload()
        self.programs = programs.find(self.layout, self.environ)
        self.report(
            f"PostgreSQL {self.programs.postgres_version}, Valkey {self.programs.valkey_version}, "
            f"data in {self.layout.var}"
        )
        self._mend()
        self._check_ports()
        self.prepare()
        servers = list(self.topology)
        # A worker for each server: a shard's waits for its replicas', and must not take their place.
        with ThreadPoolExecutor(len(servers), thread_name_prefix="devcluster") as pool:
            groups = [self.topology.nodes(shard) for shard in self.topology.shard_names]
            shards = [pool.submit(self.start_shard, pool, nodes) for nodes in groups]
            self._gather(
                [*shards, *(pool.submit(self.valkey.start, node) for node in self.topology.valkeys())]
            )
        primaries = [self.primary(shard) for shard in self.topology.shard_names]
        applied = bootstrap.migrate_everything(self.postgres, primaries)
        bootstrap.register(self.postgres, primaries[0], self.topology.nodes())
        publish.settings(self)
        publish.topology(self)
        publish.processes(self)
        self.report(
            f"{len(self.launcher.recorded())} servers are ready, {applied or 'no'} migrations were due"
        )

    def hold(self) -> None:
        """Take the data folder's lock. Raises `ClusterError` where another process has it."""
        self._held.enter_context(self.layout.locked())

    @property
    def held(self) -> bool:
        return self.layout.holder() == os.getpid()

    def stop(self) -> None:
        """Stop what runs in this data folder; the data stays. Nothing happens where another process holds it."""
        self.launcher.interrupt()
        if self.held:
            try:
                shutdown.stop(self.layout, self.launcher)
            finally:
                self._held.close()

    def primary(self, shard: str) -> PostgresNode:
        """The node of a shard that is primary by what lies on disk. The newest timeline wins."""
        return self._primary(self.topology.nodes(shard))

    def _primary(self, nodes: Sequence[PostgresNode]) -> PostgresNode:
        named = {node.name: node for node in nodes}
        folders = {name: self.postgres.folder(node) for name, node in named.items()}
        return named[lineage.primary(nodes[0].shard, folders)]

    def start_server(self, name: str) -> None:
        """Start one server that has died, in a cluster that runs; as a replica, if it was failed over meanwhile.

        Raises `ClusterError` where it runs.
        """
        self.prepare()
        nodes = {node.name: node for node in self.topology}
        if name not in nodes:
            raise ClusterError(f"there is no server {name}: it is one of {', '.join(nodes)}")
        node = nodes[name]
        siblings = self.topology.nodes(node.shard) if isinstance(node, PostgresNode) else ()
        if node in standing.left_behind(self.postgres, siblings):
            self.rejoin(name)
            return
        if not port_is_free(node.port):
            raise ClusterError(f"{name} runs already, or something else has its port {node.port}")
        if isinstance(node, ValkeyNode):
            with self.layout.occupied(name):
                self.valkey.start(node)
        else:
            self._start_postgres(node, siblings)
        publish.processes(self)

    def rejoin(self, name: str) -> None:
        """Bring a server that was failed over back as a replica. Raises `ClusterError` where that cannot be."""
        (node,) = (node for node in self.topology.nodes() if node.name == name)
        rejoin.bring_back(self.postgres, node, self.topology.nodes(node.shard), self.report)
        publish.processes(self)

    def prepare(self) -> None:
        """Know the programs and passwords that servers are started with."""
        self.programs = programs.find(self.layout, self.environ)
        names = [node.name for node in self.topology.valkeys()]
        self.credentials = credentials.load(self.layout, names, self.environ)
        shared = (self.layout, self.programs, self.launcher, self.credentials.passwords, self.durable)
        self.postgres = postgres.Postgres(*shared)
        self.valkey = valkey.Valkey(*shared)

    def start_shard(self, pool: ThreadPoolExecutor, nodes: Sequence[PostgresNode]) -> None:
        """Start a shard's servers, each made where it is not yet, the replicas side by side."""
        made = [node for node in nodes if self.postgres.made(node)]
        for node in made:
            self.postgres.check_version(node)
        if not made:
            self.postgres.make_primary(nodes[0])
        primary = self._primary(nodes)
        self.postgres.start(primary, nodes)
        first = self.topology.shard_names[0]
        catalog = [bootstrap.CATALOG_DATABASE] if primary.shard == first else []
        bootstrap.make_roles_and_databases(self.postgres, primary, [bootstrap.SHARD_DATABASE, *catalog])
        self.postgres.prepare_slots(primary, nodes)
        others = [node for node in nodes if node != primary]
        self._gather([pool.submit(self._start_replica, node, primary, nodes) for node in others])

    def _start_replica(
        self, node: PostgresNode, primary: PostgresNode, nodes: Sequence[PostgresNode]
    ) -> None:
        if self.postgres.made(node) and not self.postgres.is_standby(node):
            rejoin.bring_back(self.postgres, node, nodes, self.report)
            return
        if self.postgres.made(node) and self.postgres.slot_is_lost(node, primary):
            self.report(f"{node.name} is too far behind {primary.name}: copying it anew")
            self.postgres.remove(node)
        if not self.postgres.made(node):
            self.postgres.make_replica(node, primary)
        self._start_postgres(node, nodes)

    def _start_postgres(self, node: PostgresNode, siblings: Sequence[PostgresNode]) -> None:
        try:
            with self.layout.occupied(node.name):
                rejoin.end_orphans(self.postgres, node)
                self.postgres.start(node, siblings)
                self.postgres.prepare_slots(node, siblings)
        except OffLineage as error:
            self.report(str(error))
            rejoin.bring_back(self.postgres, node, siblings, self.report, off_lineage=True)

    def _gather(self, futures: Sequence[Future[Any]]) -> None:
        """Wait for all; the first that fails ends the others, and is raised."""
        wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.done() and future.exception() for future in futures):
            self.launcher.interrupt()
        wait(futures)
        failures = [error for future in futures if (error := future.exception())]
        for error in sorted(failures, key=lambda error: isinstance(error, Interrupted)):
            if shutil.disk_usage(self.layout.data).free < _FULL_BYTES:
                raise ClusterError(f"the disk of {self.layout.data} is full ({error})") from error
            raise error

    def _mend(self) -> None:
        """Put away what a killed start left: servers without a supervisor, half-made folders."""
        left = shutdown.leftovers(self.layout, self.launcher)
        if left:
            self.report(f"stopping what an earlier start left: {', '.join(process.name for process in left)}")
        shutdown.stop(self.layout, self.launcher)
        for path in self.layout.data.glob(".*-*"):
            _delete(path)

    def _check_ports(self) -> None:
        growth.find_ports(self)
        for node in self.topology:
            if not port_is_free(node.port):
                raise ClusterError(
                    f"port {node.port}, for {node.name}, is taken: set CLUSTER_PORT (now "
                    f"{self.topology.first_port}) to the first of {len(self.topology)} free ports"
                )
        if not port_is_free(self.http_port):
            raise ClusterError(f"port {self.http_port}, for the service, is taken: set PORT to a free one")


def _delete(path: Path) -> None:
    """Also where its maker deletes it at the same time: initdb does, when the server it started has been killed."""
    while path.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _names(nodes: Sequence[PostgresNode]) -> str:
    return ", ".join(node.name for node in nodes)
