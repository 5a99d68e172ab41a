"""What goes wrong while the sessions work: faults of servers and of replay, drawn from a seed.

Three lanes run side by side, each one act after the other: in one a shard's servers and the service's workers suffer,
in one only that shard's replay does, in one the server that remembers positions. An act lasts for so many operations
of the sessions, not for a time. Before the next act of the servers' lane begins the shard is whole again: with two of
three nodes gone nobody could promise anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import psutil
import psycopg

from tests.cluster_fixtures import Service
from tests.faults.consistency.history import Event, Recorder
from tests.faults.consistency.upkeep import Upkeep
from tests.shard_servers import Servers, until

SERVER_FAULTS = (
    "kill-primary",
    "kill-worker",
    "freeze-replica",
    "switchover",
    "freeze-primary",
    "kill-replica",
)
REPLAY_FAULTS = ("pause-replay", "delay-replay")
MEMORY_FAULTS = ("freeze-redis", "kill-redis")
# Longer than a bounded wait for replay, shorter than any limit of lag.
DELAY = "1500ms"

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Act:
    """One fault: it begins `after` so many operations and lasts for `holds` more. `pick` chooses among targets."""

    fault: str
    pick: int
    after: int
    holds: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that is done, to one shard and to what all share. The servers' lane says when it is over."""

    shard: str
    servers: tuple[Act, ...]
    replay: tuple[Act, ...]
    memory: tuple[Act, ...]

    @classmethod
    def draw(cls, seed: int, shards: Sequence[str], *, acts: int, holds: int) -> Schedule:
        """So many acts of the servers' lane, every fault once before any comes again; of the others as many as fit.

        An act lasts for half of `holds` operations at least, and for all of them at most.
        """
        choice = Random(seed)

        def lane(faults: Sequence[str], count: int) -> tuple[Act, ...]:
            drawn = [
                fault for _ in range(-(-count // len(faults))) for fault in choice.sample(faults, len(faults))
            ]
            return tuple(
                Act(
                    fault,
                    choice.randrange(1000),
                    choice.randint(holds // 4, holds),
                    choice.randint(holds // 2, holds),
                )
                for fault in drawn[:count]
            )

        lanes = [lane(faults, acts) for faults in (SERVER_FAULTS, REPLAY_FAULTS, MEMORY_FAULTS)]
        return cls(choice.choice(shards), *lanes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Schedule:
        """From what `as_dict` gave."""
        lanes = {name: tuple(Act(**act) for act in values[name]) for name in ("servers", "replay", "memory")}
        return cls(values["shard"], **lanes)


class Nemesis:
    """Carries a schedule out on the servers, while the recorder counts what the sessions do meanwhile."""

    def __init__(self, servers: Servers, service: Service, recorder: Recorder, schedule: Schedule) -> None:
        self.servers, self.service = servers, service
        self.upkeep = Upkeep(servers, service.settings)
        self._recorder, self._schedule = recorder, schedule
        self._failure: BaseException | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """All of it; returns when the last act is over. Raises what an act raised."""
        beside = [
            threading.Thread(target=self._guarded, args=(acts, lambda: None))
            for acts in (self._schedule.replay, self._schedule.memory)
        ]
        for lane in beside:
            lane.start()
        self._guarded(self._schedule.servers, lambda: self.upkeep.await_whole(self._schedule.shard))
        self._stopped.set()  # what the other lanes have not begun is left out
        for lane in beside:
            lane.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, acts: Sequence[Act], afterwards: Undo) -> None:
        try:
            for act in acts:
                self._wait(act.after)
                if self._stopped.is_set():
                    return
                undo = getattr(self, f"_{act.fault.replace('-', '_')}")(act.pick)
                self._wait(act.holds)
                undo()
                afterwards()
        except BaseException as error:  # noqa: BLE001 - raised by run(), in the thread that waits for it
            self._failure = self._failure or error
            self._stopped.set()

    def _wait(self, operations: int) -> None:
        wanted = self._recorder.count + operations
        until(lambda: self._recorder.count >= wanted or self._stopped.is_set(), 120.0)

    @contextmanager
    def _event(self, verb: str, target: str, shard: str | None = None) -> Iterator[None]:
        started = self._recorder.now()
        yield
        shard = self._schedule.shard if shard is None else shard
        self._recorder.events.append(Event(verb, shard, target, started, self._recorder.now()))

    def _replica(self, pick: int) -> str:
        replicas = self.upkeep.replicas(self._schedule.shard)
        return replicas[pick % len(replicas)]

    def _pause_replay(self, pick: int) -> Undo:
        node = self._replica(pick)
        with self._event("pause-replay", node):
            self._try_sql(node, "SELECT pg_wal_replay_pause()")

        def resume() -> None:
            with self._event("resume-replay", node):
                self._try_sql(node, "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()")

        return resume

    def _delay_replay(self, pick: int) -> Undo:
        node = self._replica(pick)
        with self._event("delay-replay", node):
            self._try_sql(node, f"ALTER SYSTEM SET recovery_min_apply_delay = '{DELAY}'")
            self._try_sql(node, "SELECT pg_reload_conf()")

        def hurry() -> None:
            with self._event("hurry-replay", node):
                self._try_sql(node, "ALTER SYSTEM RESET recovery_min_apply_delay")
                self._try_sql(node, "SELECT pg_reload_conf()")

        return hurry

    def _try_sql(self, node: str, text: str) -> None:
        """The other lane may have killed, frozen or promoted the node: then this does not matter. Healed in the end."""
        with suppress(psycopg.Error):
            self.servers.sql(node, text)

    def _freeze_replica(self, pick: int) -> Undo:
        node = self._replica(pick)
        with self._event("freeze", node):
            self.servers.freeze(node)

        def thaw() -> None:
            with self._event("thaw", node):
                self.servers.thaw(node)

        return thaw

    def _kill_replica(self, pick: int) -> Undo:
        node = self._replica(pick)
        with self._event("kill", node):
            self.upkeep.kill(node)

        def start() -> None:
            with self._event("start", node):
                self.upkeep.start(node)

        return start

    def _kill_primary(self, pick: int) -> Undo:
        """It comes back as a replica; every second time it first comes back as it was, and takes itself for primary."""
        node = self.upkeep.primary(self._schedule.shard)
        with self._event("kill", node):
            self.upkeep.kill(node)
        self._fail_over()

        def come_back() -> None:
            if pick % 2:
                with self._event("start", node):
                    self.servers.start(node)
                self._wait(20)
            with self._event("rejoin", node):
                self.upkeep.rejoin(node)

        return come_back

    def _freeze_primary(self, _pick: int) -> Undo:
        node = self.upkeep.primary(self._schedule.shard)
        with self._event("freeze", node):
            self.servers.freeze(node)
        self._fail_over()

        def thaw() -> None:
            with self._event("thaw", node):
                self.servers.thaw(node)
            self._wait(20)
            with self._event("rejoin", node):
                self.upkeep.rejoin(node)

        return thaw

    def _switchover(self, _pick: int) -> Undo:
        node = self.upkeep.primary(self._schedule.shard)
        self._fail_over()

        def rejoin() -> None:
            with self._event("rejoin", node):
                self.upkeep.rejoin(node)

        return rejoin

    def _fail_over(self) -> None:
        with self._event("failover", self._schedule.shard):
            self.upkeep.fail_over(self._schedule.shard)

    def _freeze_redis(self, _pick: int) -> Undo:
        with self._event("freeze", "redis", shard=""):
            self.servers.freeze("redis")

        def thaw() -> None:
            with self._event("thaw", "redis", shard=""):
                self.servers.thaw("redis")

        return thaw

    def _kill_redis(self, _pick: int) -> Undo:
        """It comes back empty."""
        with self._event("kill", "redis", shard=""):
            self.upkeep.kill("redis")

        def start() -> None:
            with self._event("start", "redis", shard=""):
                self.upkeep.start("redis")

        return start

    def _kill_worker(self, pick: int) -> Undo:
        before = self._workers()
        worker = before[pick % len(before)]
        with self._event("kill-worker", str(worker.pid), shard=""):
            worker.kill()

        def await_its_replacement() -> None:
            until(lambda: len(self._workers()) == len(before), 60.0)

        return await_its_replacement

    def _workers(self) -> list[psutil.Process]:
        workers = psutil.Process(self.service.pid).children()
        return sorted(workers, key=lambda process: process.pid)
