"""The control room of one worker: looks once a second, and tells whoever asks.

A look asks this process only: what its sampler, its shard map and its breakers know. What takes a server, the moves in
the catalog and how many stores there are, is asked for in the background, and by nobody who waits for a page. Asking
for the document twice within `FRESH_SECONDS` gives the same figures: ten pages cost little more than one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, time
from typing import Any

import psycopg

import sql
from config import Settings, parse_weights
from errors import MarketplaceError, Unavailable
from metrics.totals import TotalsReader
from moves.record import Move
from operations.control_room.document import Found, event_row, figures, move_row
from operations.control_room.events import EventLog, Happening
from operations.control_room.knocking import unanswered
from operations.control_room.nodes import Word, word_of
from operations.control_room.watch import Look, changes, moved
from operations.moves import list_shown_moves
from pools.node import NodeState
from routing.catalog import Catalog, Snapshot
from routing.every_shard import EveryShard
from routing.map_cache import MapCache
from routing.replay import Limits, ReplayPositions
from routing.router import Router
from routing.scope import Scope

# The standard library's: a process that serves nothing has not set up a log, and its standard output is not one.
logger = logging.getLogger("control_room")

LIST_REJOINING = sql.query("list_rejoining_nodes")

LOOK_SECONDS = 1.0
# Between two looks for who is on its way back: rewinding a small node takes half a second.
SHARDS_SECONDS = 0.2
# Figures younger than this are given out again.
FRESH_SECONDS = 0.4
# Somebody looks at a page while its last question is no older than this.
WATCHED_SECONDS = 5.0
# Between two knocks at every node, while somebody looks: each costs a server a fork.
KNOCK_SECONDS = 0.5
# Between two counts of all stores, while somebody looks.
COUNT_SECONDS = 10.0


class ControlRoom:
    """`count_stores` is asked for all shards, `away` says which Redis-compatible servers are."""

    def __init__(
        self,
        settings: Settings,
        *,
        catalog: Catalog,
        maps: MapCache,
        replay: ReplayPositions,
        router: Router,
        count_stores: EveryShard[int],
        away: Callable[[], Mapping[str, bool]],
    ) -> None:
        folder = Path(settings.metrics_dir or settings.var / "metrics")
        self.events = EventLog(folder / "events.jsonl")
        self._began = time()
        self._limits = Limits(
            settings.replica_max_lag_bytes,
            settings.replica_max_lag_seconds,
            parse_weights(settings.replica_weights),
        )
        self._catalog, self._maps, self._replay, self._router = catalog, maps, replay, router
        self._count_stores = count_stores
        self._away = away
        self._find_rejoining = EveryShard(self._list_rejoining)
        self._reader = TotalsReader()
        self._lock = threading.Lock()
        self._figures: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._look = Look()
        self._unsaid: list[Happening] = []
        self._since: dict[str, float] = {}
        self._asked_at = self._counted_at = self._knocked_at = float("-inf")
        self._moves: Sequence[Move] | None = None
        self._move_states: dict[str, str] = {}
        self._stores: Mapping[str, int | None] = {}
        self._rejoining: frozenset[str] = frozenset()
        self._unanswered: frozenset[str] = frozenset()

    # In the background.

    def look(self) -> None:
        """See what has changed, and write it down. Asks no server. Each second in every worker."""
        try:
            snapshot = self._maps.current()
        except Unavailable:
            return
        now, before = self._see(snapshot), self._look
        changed = (name for name, word in now.nodes.items() if before.nodes.get(name) not in (word, None))
        self._since.update(dict.fromkeys(changed, time()))
        self._look = now
        self._say(list(changes(before, now)))

    def look_at_moves(self) -> None:
        """Ask the catalog for moves. Each second in every worker."""
        try:
            found = list_shown_moves(self._catalog)
        except (Unavailable, psycopg.Error):
            self._moves = None
            return
        if self._moves is not None or self._move_states:
            self._say(list(moved(self._move_states, found)))
        self._moves = found
        self._move_states = {str(move.id): move.state for move in found}

    def look_at_shards(self) -> None:
        """Ask who of the missing nodes is on its way back; while somebody looks, knock at all, and count the stores."""
        missing = {name for name, word in self._look.nodes.items() if word in ("down", "silent", "rewinding")}
        shards = [shard for shard, (primary, _) in self._look.shards.items() if primary is not None]
        found: set[str] = set()
        if missing:
            for names in self._find_rejoining(shards).values():
                found |= names or set()
        # Once begun it goes on until the node answers: the connection itself is there for a moment only.
        self._rejoining = frozenset((found | self._rejoining) & missing)
        if monotonic() - self._asked_at > WATCHED_SECONDS or self._look.map is None:
            self._unanswered = frozenset()
            return
        if monotonic() - self._knocked_at > KNOCK_SECONDS:
            self._knocked_at = monotonic()
            self._unanswered = frozenset(unanswered(self._look.map.nodes))
        if monotonic() - self._counted_at > COUNT_SECONDS:
            self._counted_at = monotonic()
            self._stores = self._count_stores(self._router.shards())

    def begin(self, worker: str, process: int, began: float) -> None:
        """A worker serves from now on. `began`: since when the totals count, in seconds since 1970."""
        self._began = began
        self._say([Happening("worker", "info", worker, "serves", f"worker:{worker}", str(process))])

    # For a page.

    def document(self, after: int, *, operator: bool) -> dict[str, Any]:
        """What `GET /live` answers. `after`: the last event that the page has. Stores stand in it for the operator."""
        self._asked_at = monotonic()
        with self._lock:
            made_at, made = self._figures
            if monotonic() - made_at > FRESH_SECONDS:
                made = self._make_figures()
                self._figures = monotonic(), made
        return made | {
            "operator": operator,
            "moves": [move_row(move, operator=operator) for move in self._moves or ()],
            "events": [event_row(event, operator=operator) for event in self.events.after(after)],
        }

    def _make_figures(self) -> dict[str, Any]:
        snapshot, totals = self._maps.current(), self._reader.read()
        found = Found(
            at=time(),
            began=self._began,
            look=self._see(snapshot),
            states=self._replay.states(),
            since=self._since,
            stores=self._stores,
        )
        return figures(snapshot, found, totals)

    # Inside.

    def _see(self, snapshot: Snapshot) -> Look:
        states = self._replay.states()
        nodes: dict[str, Word] = {}
        shards: dict[str, tuple[str | None, int]] = {}
        for shard in snapshot.map.shards:
            found = self._replay.shard(shard.name)
            timeline = found.lineage.timeline if found.lineage else 0
            shards[shard.name] = (found.primary.name if found.primary else None, timeline)
            for node in snapshot.map.nodes:
                if node.shard == shard.name:
                    state = states.get(node.name, NodeState(node.name))
                    word = word_of(state, found.lineage, self._limits, self._rejoining)
                    nodes[node.name] = "silent" if node.name in self._unanswered else word
        return Look(nodes, shards, snapshot.flags.as_dict(), snapshot.map, self._away())

    def _say(self, happenings: list[Happening]) -> None:
        """Write it down, with what could not be written before; the log of the service has it as well."""
        for each in happenings:
            logger.info("noticed: %s %s", each.store_id or each.subject, each.text)
        with self._lock:
            unsaid = [*self._unsaid, *happenings]
            self._unsaid = [] if not unsaid or self.events.write(unsaid) else unsaid[-100:]

    def _list_rejoining(self, shard: str) -> set[str]:
        scope = Scope(self._maps.current().flags)
        try:
            return {row[0] for row in self._router.on_shard(scope, shard, LIST_REJOINING, {})}
        except MarketplaceError:
            return set()
