"""Where every node stands in its shard's log: the one greenlet a worker that samples them, and what follows from it.

A sampled position is a lower bound: a replica never replays backwards, so a read may go by the last sample without
asking again, and costs nothing. What is not known is not assumed: a node that has not answered lately, whose timeline
cannot be told, or that lies on another history than its shard's, is not read from.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from pools.connection import ShardConnection
from pools.node import Node, NodeState
from routing.lag import LogEnd
from routing.lineage import Lineage, Verdict
from routing.sampling import Link, Sample
from routing.token import Position

logger = logging.getLogger("replay")

# An older round says nothing of anybody's health: the sampler does not get its turn any more.
FRESH_SECONDS = 2.0
# Between two rounds that somebody waits for: a commit that a replica has confirmed is replayed in about this.
HURRIED_SECONDS = 0.002
# Within a round, the pauses before looking for answers: a node answers in a fraction of the first.
LOOKS_SECONDS = (0.001, 0.001, 0.002, 0.004, 0.008, 0.016)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far behind a replica may be and still be read by who has no token; and which node takes what share."""

    lag_bytes: int
    lag_seconds: float
    weights: Mapping[str, int]  # of nodes; 1 where it is not named, and 0 takes no reads


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that may be read: what it is known to have replayed, and since when."""

    name: str
    timeline: int
    lsn: int
    known_at: float
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard as of one round. `primary` is the node on the newest timeline, while it answers.

    `replicas` are those that may be read; there are `nodes` in all, the primary included. `confirmed` is known while
    the primary is gone for certain: no commit was acknowledged that lies behind it, or can be.
    """

    name: str
    made_at: float = float("-inf")
    lineage: Lineage | None = None
    primary: NodeState | None = None
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    nodes: int = 0
    confirmed: int | None = None


class ReplayPositions:
    """Samples every node, twenty times a second unless told otherwise. `changed` is told each round's states.

    `connect` gives an autocommit connection to one node. All that is read from outside are values that are replaced
    as a whole; nobody waits for the sampler but who says so (`wait_for`).
    """

    def __init__(
        self,
        connect: Callable[[Node], ShardConnection],
        *,
        limits: Limits,
        interval_seconds: float,
        changed: Callable[[Mapping[str, NodeState]], None],
    ) -> None:
        self._connect = connect
        self._limits = limits
        self._interval_seconds = interval_seconds
        self._changed = changed
        self._links: dict[str, Link] = {}
        self._ends: dict[str, LogEnd] = {}
        self._lineages: dict[str, Lineage] = {}
        self._waits: dict[str, bool] = {}  # whether the shard's commits waited for a replica, when last seen
        self._states: dict[str, NodeState] = {}
        self._shards: dict[str, ShardState] = {}
        self._round = threading.Condition()
        self._hurried: set[str] = set()  # shards whose next samples are waited for
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # From outside.

    def apply(self, nodes: Sequence[Node]) -> None:
        """Sample these nodes from the next round on."""
        wanted = {node.name: node for node in nodes}
        links = {name: link for name, link in self._links.items() if wanted.get(name) == link.node}
        gone = [link for name, link in self._links.items() if name not in links]
        for node in nodes:
            if node.name not in links:
                links[node.name] = Link(node, self._connect)
        self._links = links
        self._states = {name: self._states.get(name, NodeState(name)) for name in links}
        for link in gone:
            link.close()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="replay-positions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling; its connections are closed by the thread that uses them."""
        self._stopping.set()
        self._wake.set()

    def states(self) -> Mapping[str, NodeState]:
        """Every node's state by its name, as of the last round."""
        return self._states

    def shard(self, name: str) -> ShardState:
        """The shard as of the last round; without replicas where that was too long ago."""
        state = self._shards.get(name)
        if state is None or monotonic() - state.made_at > FRESH_SECONDS:
            return ShardState(name, lineage=state.lineage if state else None)
        return state

    def positions_after(self, moment: float) -> Mapping[int, Position] | None:
        """Where every shard's primary stood after this moment of the monotonic clock; None until all were heard of.

        By system identifier. Whatever was confirmed to anyone before that moment lies before these positions.
        """
        shards = list(self._shards.values())
        primaries = [state.primary for state in shards if state.primary is not None]
        if not shards or len(primaries) < len(shards) or any(node.sampled_at <= moment for node in primaries):
            return None
        return {
            node.system_identifier: Position(node.system_identifier, node.timeline, node.lsn)
            for node in primaries
        }

    def wait_for(self, condition: Callable[[], bool], seconds: float, hurried: str | None = None) -> bool:
        """Wait until a round has made the condition true, for so long at most; whether it is.

        The nodes of the shard `hurried` are asked at once, and not when the next round is due.
        """

        def holds() -> bool:
            if condition():
                return True
            if hurried is not None:
                self._hurried.add(hurried)
                self._wake.set()
            return False

        with self._round:
            return self._round.wait_for(holds, seconds)

    def learn(self, shard: str, node: str, timeline: int, lsn: int, at: float) -> None:
        """A read found the node there: as good as a sample, and newer. `at`: before the read was sent."""
        state = self._shards.get(shard)
        known = state.replicas.get(node) if state is not None else None
        if state is None or known is None or state.lineage is None or lsn <= known.lsn:
            return
        here = Position(state.lineage.system_identifier, timeline, lsn)
        if state.lineage.judge(here) is Verdict.KEPT:
            newer = replace(known, lsn=lsn, known_at=at)
            self._shards[shard] = replace(state, replicas={**state.replicas, node: newer})

    # The rounds.

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._make_round(list(self._links.values()))
            due = monotonic() + self._interval_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - not in step
            while (left := due - monotonic()) > 0 and self._wake.wait(left) and not self._stopping.is_set():
                self._wake.clear()  # before it is looked for whom
                shards, self._hurried = self._hurried, set()
                hurried = [link for link in self._links.values() if link.node.shard in shards]
                self._make_round(hurried, hurried=True)
                self._stopping.wait(HURRIED_SECONDS)
        for link in self._links.values():
            link.close()

    def _make_round(self, links: Sequence[Link], *, hurried: bool = False) -> None:
        try:
            self._sample(links, hurried=hurried)
            self._conclude()
        except Exception:
            # Whatever it was, the next round is due all the same; the line says what to mend.
            logger.exception("a round of samples failed")

    def _sample(self, links: Sequence[Link], *, hurried: bool) -> None:
        now = monotonic()
        for link in links:
            link.hear(now)
            link.ask(now, hurried=hurried)
        awaited = links
        for pause in LOOKS_SECONDS:
            if self._stopping.wait(pause):
                return
            now = monotonic()
            awaited = [link for link in awaited if not link.hear(now)]
            if not awaited:
                return

    def _conclude(self) -> None:
        links, now = self._links, monotonic()
        states: dict[str, NodeState] = {}
        shards: dict[str, ShardState] = {}
        for shard in sorted({link.node.shard for link in links.values()}):
            members = [link for link in links.values() if link.node.shard == shard]
            shards[shard] = self._conclude_shard(shard, members, states, now)
        with self._round:
            self._states, self._shards = states, shards
            self._round.notify_all()
        self._changed(states)

    def _conclude_shard(
        self, shard: str, links: Sequence[Link], states: dict[str, NodeState], now: float
    ) -> ShardState:
        samples = {link.node.name: sample for link in links if (sample := link.fresh) is not None}
        lineage = self._follow(shard, [link for link in links if link.node.name in samples])
        primary = _newest_primary(samples, lineage)
        end = self._log_end(shard, links, samples, primary, now)
        readable: dict[str, Replica] = {}
        for link in links:
            name = link.node.name
            sample = samples.get(name)
            if sample is None:
                states[name] = NodeState(name, absence=link.absence)
            elif not sample.in_recovery:
                states[name] = _primary_state(name, sample, is_newest=name == primary)
            else:
                lag = end.lag(sample.lsn, sample.transaction_age, now)
                states[name] = state = _replica_state(name, sample, lag)
                if self._may_be_read(state, lineage):
                    readable[name] = Replica(
                        name, sample.timeline, sample.lsn, sample.asked_at, lag[1] or 0.0
                    )
        confirmed = None if primary else self._confirmed(shard, links, samples)
        return ShardState(
            shard, now, lineage, states[primary] if primary else None, readable, len(links), confirmed
        )

    def _follow(self, shard: str, links: Sequence[Link]) -> Lineage | None:
        """The shard's lineage: of the newest timeline that any of its nodes is on."""
        lineage = self._lineages.get(shard)
        known = {link.sample.system_identifier for link in links if link.sample is not None}
        if lineage is not None and known and lineage.system_identifier not in known:
            lineage = None  # that shard was taken away, and another one added under its name
            self._ends.pop(shard, None)
        for link in links:
            sample = link.sample
            assert sample is not None
            if lineage is not None and sample.timeline <= lineage.timeline:
                continue
            if sample.timeline == 1:
                lineage = Lineage(sample.system_identifier, 1)
            elif sample.timeline in link.histories:
                try:
                    text = link.histories.pop(sample.timeline)
                    lineage = Lineage.parse(sample.system_identifier, sample.timeline, text)
                except ValueError as error:
                    # Another node may have the file; until one has, nobody's position on this timeline is believed.
                    logger.warning("%s cannot tell its history: %s", link.node.name, error)
            elif sample.timeline > 1:
                link.wanted_history = sample.timeline
        if lineage is not None and lineage is not self._lineages.get(shard):
            self._lineages[shard] = lineage
            logger.info("%s is on timeline %d", shard, lineage.timeline)
        return lineage

    def _log_end(
        self,
        shard: str,
        links: Sequence[Link],
        samples: Mapping[str, Sample],
        primary: str | None,
        now: float,
    ) -> LogEnd:
        """Where the shard's log ends. Without a primary: where the replica ends that has received most of it.

        Nothing can be confirmed then that none of them has, as commits wait for one; if all but one are heard of,
        who is the primary that is away.
        """
        end = self._ends.setdefault(shard, LogEnd())
        if primary is not None:
            self._waits[shard] = samples[primary].waits
            end.record(samples[primary].lsn, now)
        else:
            replicas = [sample for sample in samples.values() if sample.in_recovery]
            if replicas and len(replicas) >= len(links) - 1:
                end.record(max(max(sample.lsn, sample.received or 0) for sample in replicas), now)
        return end

    def _confirmed(self, shard: str, links: Sequence[Link], samples: Mapping[str, Sample]) -> int | None:
        """Behind which position nothing was acknowledged: the most that any replica has received.

        Known where commits waited for a replica, every node but one is heard of, and all of these are replicas that
        nobody sends to: so nothing can be acknowledged any more either, but by a primary of a newer timeline.
        """
        alone = [
            sample for sample in samples.values() if sample.in_recovery and sample.newest_timeline is not None
        ]
        if not self._waits.get(shard) or len(alone) < max(1, len(links) - 1):
            return None
        return max(max(sample.lsn, sample.received or 0) for sample in alone)

    def _may_be_read(self, state: NodeState, lineage: Lineage | None) -> bool:
        if lineage is None or state.replay_lag_bytes is None or state.replay_lag_seconds is None:
            return False
        here = Position(state.system_identifier, state.timeline, state.lsn)
        return (
            state.timeline > 0
            and lineage.judge(here) is Verdict.KEPT
            and state.replay_lag_bytes <= self._limits.lag_bytes
            and state.replay_lag_seconds <= self._limits.lag_seconds
            and self._limits.weights.get(state.name, 1) > 0
        )


def _newest_primary(samples: Mapping[str, Sample], lineage: Lineage | None) -> str | None:
    """Of the nodes that say they are primary the one on the newest timeline: the others were, and do not know yet."""
    newest = lineage.timeline if lineage is not None else 0
    primaries = [
        (sample.timeline, name)
        for name, sample in samples.items()
        if not sample.in_recovery and sample.timeline >= newest
    ]
    return max(primaries)[1] if primaries else None


def _primary_state(name: str, sample: Sample, *, is_newest: bool) -> NodeState:
    known = NodeState(
        name,
        system_identifier=sample.system_identifier,
        timeline=sample.timeline,
        lsn=sample.lsn,
        received=sample.lsn,
        sampled_at=sample.asked_at,
        clock_ahead_us=sample.clock_ahead_us,
    )
    if not is_newest:
        return known
    return replace(known, role="primary", healthy=True, replay_lag_bytes=0, replay_lag_seconds=0.0)


def _replica_state(name: str, sample: Sample, lag: tuple[int | None, float | None]) -> NodeState:
    return NodeState(
        name,
        "replica",
        healthy=True,
        replay_lag_bytes=lag[0],
        replay_lag_seconds=lag[1],
        system_identifier=sample.system_identifier,
        timeline=sample.timeline,
        lsn=sample.lsn,
        received=sample.received or sample.lsn,
        sampled_at=sample.asked_at,
    )
