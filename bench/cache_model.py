"""Search for an order of events in which the cache shows somebody the past: random ones, against the real scripts.

    .venv/bin/python -m bench.cache_model --interleavings 1000000 [--random-seed 7] [--redis-url ...]

One interleaving is a store of its own with three products, a primary, two replicas and a few sessions. Writes, replay,
reads through the cache and by the cache's own path, restarts of the cache's server (with no memory, or an old one) and
messages that are lost go on at once, in an order drawn from the seed. What the databases hold is modelled; every word
to the cache is said to a real server, by `ephemeral/cache.py` with the positions that `routing/` would give.

Checked, by versions and not by positions:
  1. a session is never shown less than it was told of its own writes, or was shown before, and nobody an entry of
     before a restart;
  2. where every change was told of with its position, and nothing of that was forgotten, nobody is shown anything but
     the present when everything has come to rest;
  3. two seconds after the last write nobody is shown anything but the present, whatever was lost.
"""

from __future__ import annotations

import argparse
import random
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import monotonic, sleep
from typing import Any

from config import load
from ephemeral.cache import Cache, Kept, Look, Name, Stamp
from ephemeral.client import EphemeralUnavailable, connect
from ephemeral.round_trip import PROBE_SECONDS, Reply, RoundTrips
from ephemeral.scripts import Call, Command

PRODUCTS = 3
SYSTEM = 7
PRESENT_WITHIN_SECONDS = 2.0
# How often what happens.
WITH_REPLICAS, BEGIN_ANOTHER, KEEP_SNAPSHOT, BRING_IT_BACK = 0.6, 0.4, 0.5, 0.5
FATES, FATES_OF_A_WRITE = ("dies", "untold", "in doubt", "told"), (1, 1, 1, 7)
Versions = list[int]
Step = Iterator[None]


class StaleError(AssertionError):
    """The cache showed the past; says which seed and what."""


class Restartable:
    """The real server, which a model may have restarted: what a restart does to memory and run id is put in between."""

    def __init__(self, server: RoundTrips) -> None:
        self._server = server
        self.run = 0

    def ask(self, *commands: Command | Call) -> list[Reply]:
        while True:
            try:
                replies = self._server.ask(*commands)
                break
            except EphemeralUnavailable:
                sleep(PROBE_SECONDS)  # a busy machine; all commands bear being done twice
        run_id = f"run{self.run}"
        return [reply._replace(server=replace(reply.server, run_id=run_id)) for reply in replies]


@dataclass(slots=True)
class Session:
    """A reader with a token: how far it has come, and the versions it was told of or shown."""

    wanted: int = 0
    owed: Versions = field(default_factory=lambda: [0] * PRODUCTS)


@dataclass(slots=True)
class Write:
    lsn: int
    product: int
    version: int
    visible: bool = False  # on the primary; a replica shows it as soon as it has replayed it


class Interleaving:
    """One store, from its first event to its last."""

    def __init__(self, cache: Cache, server: Restartable, seed: int) -> None:
        self.cache, self.server, self.seed = cache, server, seed
        self.dice = random.Random(seed)  # noqa: S311 - to be drawn again
        self.store_id = uuid.UUID(int=self.dice.getrandbits(128))
        self.ids = [uuid.UUID(int=(n + 1) << 64) for n in range(PRODUCTS)]
        self.lsn, self.writes = 100, list[Write]()
        self.replayed = [100, 100]
        self.with_replicas = self.dice.random() < WITH_REPLICAS
        self.sessions = [Session() for _ in range(3)]
        self.announced: list[Write] = []
        self.forgot = False  # the cache's server, what it was told
        self.snapshot: list[tuple[str, bytes | None]] = []
        self.seen = Counter[str]()

    def run(self) -> None:
        kinds = [self.write, self.write, self.look_around, self.look_around, self.replay, self.restart]
        waiting = [self.dice.choice(kinds)() for _ in range(self.dice.randint(6, 14))]
        running: list[Step] = []
        while waiting or running:
            if waiting and (not running or self.dice.random() < BEGIN_ANOTHER):
                running.append(waiting.pop())
            step = self.dice.choice(running)
            if next(step, self) is self:
                running.remove(step)
        if len(self.announced) == len(self.writes) and not self.forgot:
            self.check_present("at rest")

    # The events. Each pause is where others may come between.

    def write(self) -> Step:
        session, product = self.dice.choice(self.sessions), self.dice.randrange(PRODUCTS)
        self.lsn += self.dice.randint(1, 3)
        written = Write(self.lsn, product, 1 + max((w.version for w in self.of(product)), default=0))
        self.writes.append(written)
        yield  # flushed, and waits for a replica
        written.visible = True
        yield  # committed; the worker does not know yet
        position = self.lsn
        (fate,) = self.dice.choices(FATES, FATES_OF_A_WRITE)
        if fate == "dies":
            return
        yield
        if fate != "untold":  # else the cache's server is away for this worker
            place = None if fate == "in doubt" else (1, position)
            self.cache.change(self.store_id, 1, place, [("C", self.ids[product])])
            if place is not None:
                self.announced.append(written)
            yield
        if fate != "in doubt":  # else nobody is told a position
            session.wanted = max(session.wanted, position)
            session.owed[product] = max(session.owed[product], written.version)
            yield from self.read(session, [product])

    def replay(self) -> Step:
        for _ in range(self.dice.randint(1, 3)):
            replica = self.dice.randrange(2)
            self.replayed[replica] = self.dice.randint(self.replayed[replica], self.lsn)
            yield

    def restart(self) -> Step:
        keys = Name(self.store_id, "").keys()
        if self.dice.random() < KEEP_SNAPSHOT:
            self.snapshot = [(key, self.raw("DUMP", key)) for key in keys]
            yield
        self.server.run += 1
        self.forgot = True
        self.raw("DEL", *keys)
        if self.dice.random() < BRING_IT_BACK:
            for key, dumped in self.snapshot:
                if dumped is not None:
                    self.raw("RESTORE", key, 1500, dumped, "REPLACE")

    def look_around(self) -> Step:
        covers = self.dice.choice([[0], [1], [2], [0, 1, 2]])
        for _ in range(2):
            yield from self.read(self.dice.choice([*self.sessions, None]), covers)

    def read(self, session: Session | None, covers: list[int]) -> Step:
        wanted = session.wanted if session else 0
        name = Name(self.store_id, "".join(map(str, covers)))
        look, _ = self.cache.look(name, 1, (1, wanted))
        self.seen[look.outcome] += 1
        if look.kept is not None and look.stamp is not None:
            if look.kept.etag != str(self.server.run):
                raise StaleError(f"seed {self.seed}: an entry of before the restart")
            if session is not None:
                self.show(session, list(session.owed), look.kept, look.stamp.at_most)
        elif look.lease is not None:
            yield from self.fill(name, look, session, covers)

    def fill(self, name: Name, look: Look, session: Session | None, covers: list[int]) -> Step:
        assert look.lease is not None
        run = str(self.server.run)
        after = look.lease.after[1] if look.lease.after else 0
        wanted = max(after, session.wanted if session else 0)
        owed = list(session.owed) if session else []
        bounds = self.read_replica(wanted) if self.with_replicas else None
        if bounds is not None:
            at_least, replica = bounds
            yield  # the guard has answered, the snapshot is not taken yet
            held = [self.version(n, self.replayed[replica]) for n in range(PRODUCTS)]
            yield  # the position is taken behind it
            at_most = self.replayed[replica]
        else:
            at_least = self.lsn
            yield
            quiet = all(w.visible for w in self.writes)
            yield
            held = [max((w.version for w in self.of(n) if w.visible), default=0) for n in range(PRODUCTS)]
            yield
            at_most = self.lsn
            if not quiet and self.with_replicas:
                self.cache.release(name, look.lease)
                return
            at_least -= not quiet
        low, high = self.ids[covers[0]], self.ids[covers[-1]]
        body = ",".join(f"{n}:{held[n]}" for n in covers).encode()
        kept, stamp = Kept(body, run, low=low, high=high), Stamp(SYSTEM, 1, at_least, at_most)
        yield
        self.seen[self.cache.fill(name, look.lease, stamp, kept)] += 1
        if session is not None:  # it read the database itself
            self.show(session, owed, kept, at_most)

    # What is so.

    def of(self, product: int) -> list[Write]:
        return [write for write in self.writes if write.product == product]

    def version(self, product: int, lsn: int) -> int:
        return max((w.version for w in self.of(product) if w.lsn <= lsn), default=0)

    def read_replica(self, wanted: int) -> tuple[int, int] | None:
        able = [n for n in range(2) if self.replayed[n] >= wanted]
        replica = self.dice.choice(able) if able else None
        return None if replica is None else (self.replayed[replica], replica)

    def show(self, session: Session, owed: Versions, kept: Kept, at_most: int) -> None:
        """An answer to a request of the session that began when it was owed so much."""
        for product, version in shown(kept):
            if version < owed[product]:
                raise StaleError(
                    f"seed {self.seed}: product {product} at version {version}, not {owed[product]}"
                )
            session.owed[product] = max(session.owed[product], version)
        session.wanted = max(session.wanted, at_most)

    def check_present(self, when: str) -> None:
        """Nobody is shown anything but the latest version of everything."""
        for covers in ("0", "1", "2", "012"):
            look, _ = self.cache.look(Name(self.store_id, covers), 1, (1, 0))
            if look.lease is not None:
                self.cache.release(Name(self.store_id, covers), look.lease)
            for product, version in shown(look.kept) if look.kept else ():
                if version != len(self.of(product)):
                    raise StaleError(f"seed {self.seed}, {when}: product {product} at version {version}")
                self.seen["present"] += 1

    def raw(self, *command: Any) -> Any:
        return self.server.ask(command)[0].value


def shown(kept: Kept) -> list[tuple[int, int]]:
    return [
        (int(product), int(version))
        for product, _, version in (part.partition(":") for part in kept.body.decode().split(","))
    ]


def search(server: RoundTrips, interleavings: int, seed: int) -> Counter[str]:
    """Run so many; what happened in them. Raises `StaleError` with the seed of the first that went wrong."""
    restartable = Restartable(server)
    cache = Cache(restartable, 1.5, 1 << 40)  # type: ignore[arg-type]  # it is asked as one
    seen = Counter[str]()
    resting: deque[tuple[float, Interleaving]] = deque()
    for number in range(interleavings):
        random.seed(seed + number)  # jitter and early refresh
        one = Interleaving(cache, restartable, seed + number)
        one.run()
        seen += one.seen
        resting.append((monotonic(), one))
        while resting and monotonic() - resting[0][0] > PRESENT_WITHIN_SECONDS:
            resting.popleft()[1].check_present("2 s later")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cache_model", description=__doc__.splitlines()[0])
    parser.add_argument("--interleavings", type=int, default=10_000, help="(%(default)s)")
    parser.add_argument("--random-seed", type=int, default=0, help="of the first one (%(default)s)")
    parser.add_argument("--redis-url", help="a server to use; else that of the running cluster")
    arguments = parser.parse_args()
    url = arguments.redis_url or load().redis_url
    began = monotonic()
    seen = search(RoundTrips(connect(url)), arguments.interleavings, arguments.random_seed)
    print(
        f"{arguments.interleavings} interleavings in {monotonic() - began:.0f} s, nobody was shown the past"
    )
    print(", ".join(f"{name} {count}" for name, count in seen.most_common()))


if __name__ == "__main__":
    main()
