"""What goes wrong in a round of the crash matrix, and how it is mended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.faults.crash_matrix.ground import Ground

# With a pause that is long enough for the mover to meet what is gone.
KILLED_SECONDS = 2.0
# Longer than the mover's lease.
PROCESS_FROZEN_SECONDS = 6.0
# Longer than the mover waits for any server.
SERVER_FROZEN_SECONDS = 9.0


@dataclass(frozen=True, slots=True)
class Direction:
    """From which shard to which the round's stores move."""

    source: str
    target: str


APART, CATALOG_AT_SOURCE = "apart", "at the source"


@dataclass(frozen=True, slots=True)
class Scene:
    """A round, as far as a fault concerns it: the mover is the process that stands at the gates."""

    ground: Ground
    direction: Direction
    mover: int


# Brings back what was broken; the server, if any, that then still has to come back as a replica.
Mend = Callable[[], str | None]
Strike = Callable[[Scene], Mend]


@dataclass(frozen=True, slots=True)
class Fault:
    """`strike` breaks something, and returns how it is mended."""

    name: str
    strike: Strike
    lasts_seconds: float
    catalog: str = APART
    drops: bool = False  # clients' connections end

    def direction(self, shards: Sequence[str], *, odd: bool) -> Direction:
        """Of the three shards the first has the catalog."""
        first, one, other = shards
        source, target = {
            APART: (one, other) if odd else (other, one),
            CATALOG_AT_SOURCE: (first, one),
        }[self.catalog]
        return Direction(source, target)


def _source(scene: Scene) -> str:
    return scene.direction.source


def _target(scene: Scene) -> str:
    return scene.direction.target


def _catalog(scene: Scene) -> str:
    return scene.ground.shards[0]


Where = Callable[[Scene], str]


def _killed(where: Where) -> Strike:
    def strike(scene: Scene) -> Mend:
        upkeep = scene.ground.upkeep
        node = upkeep.primary(where(scene))
        upkeep.kill(node)
        return lambda: upkeep.start(node)

    return strike


def _frozen(where: Where) -> Strike:
    def strike(scene: Scene) -> Mend:
        node = scene.ground.upkeep.primary(where(scene))
        scene.ground.servers.freeze(node)
        return lambda: scene.ground.servers.thaw(node)

    return strike


def _failed_over(where: Where, *, frozen: bool = False) -> Strike:
    """The old primary is killed, or frozen and awake again when another one has taken its place."""

    def strike(scene: Scene) -> Mend:
        upkeep, servers = scene.ground.upkeep, scene.ground.servers
        shard = where(scene)
        node = upkeep.primary(shard)
        if frozen:
            servers.freeze(node)
        else:
            upkeep.kill(node)

        def mend() -> str:
            upkeep.fail_over(shard)
            if frozen:
                servers.thaw(node)
            return node

        return mend

    return strike


def _redis(scene: Scene) -> int:
    launcher = scene.ground.servers.cluster.launcher
    return next(process.pid for process in launcher.recorded() if process.name == "redis")


def _redis_killed(scene: Scene) -> Mend:
    os.kill(_redis(scene), signal.SIGKILL)
    return lambda: scene.ground.upkeep.start("redis")


def _worker(scene: Scene) -> int:
    """The one whose child the mover is."""
    return psutil.Process(scene.mover).ppid()


def _signalled(
    process: Callable[[Scene], int], number: signal.Signals, then: signal.Signals | None = None
) -> Strike:
    def strike(scene: Scene) -> Mend:
        pid = process(scene)
        os.kill(pid, number)

        def mend() -> None:
            if then is not None:
                with suppress(ProcessLookupError):  # replaced meanwhile
                    os.kill(pid, then)

        return mend

    return strike


def _mover(scene: Scene) -> int:
    return scene.mover


def _of_server(name: str, where: Where, catalog: str = APART) -> tuple[Fault, ...]:
    return (
        Fault(f"{name} killed", _killed(where), KILLED_SECONDS, catalog),
        Fault(f"{name} frozen", _frozen(where), SERVER_FROZEN_SECONDS, catalog),
        Fault(f"{name} failed over", _failed_over(where), KILLED_SECONDS, catalog),
        Fault(
            f"{name} frozen, failed over",
            _failed_over(where, frozen=True),
            KILLED_SECONDS,
            catalog,
        ),
    )


def _of_process(name: str, process: Callable[[Scene], int]) -> tuple[Fault, ...]:
    frozen = _signalled(process, signal.SIGSTOP, signal.SIGCONT)
    killed = _signalled(process, signal.SIGKILL)
    return (
        Fault(f"{name} killed", killed, 0.0, drops=process is _worker),
        Fault(f"{name} frozen", frozen, PROCESS_FROZEN_SECONDS),
    )


FAULTS = (
    *_of_process("mover", _mover),
    *_of_process("worker", _worker),
    *_of_server("source", _source),
    *_of_server("target", _target),
    *_of_server("catalog", _catalog),
    *_of_server("source and catalog", _source, CATALOG_AT_SOURCE),
    Fault("Redis killed", _redis_killed, KILLED_SECONDS),
    _of_process("Redis", _redis)[1],
)
