"""The catalog's side of a move: what is written down before each step, and the decision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Json

from errors import MarketplaceError
from moves.errors import MoveFailed, MoverReplaced
from routing.catalog import Catalog, CatalogConnection, load
from routing.shard_map import ShardMap
from routing.token import Position
from sql import query

State = Literal["copying", "catching_up", "verifying", "switching", "done", "failed", "rolled_back"]
UNDECIDED: tuple[State, ...] = ("copying", "catching_up", "verifying")
UNDER_WAY: tuple[State, ...] = (*UNDECIDED, "switching")
Kind = Literal["publication", "slot", "subscription", "rows", "mark"]


@dataclass(frozen=True, slots=True)
class Move:
    """A row of the catalog's table `moves`, which sql/catalog/0002_moves.sql explains."""

    id: UUID
    store_id: UUID
    from_shard: str
    to_shard: str
    route: str
    state: State
    step: str
    attempt: int
    rows_total: int | None
    rows_copied: int
    lag_bytes: int | None
    write_pause_ms: float | None
    verify_ms: float | None
    error: str | None
    undo_seconds: float
    undo_until: datetime | None
    undo_asked: bool
    source_pin: list[Any] | None
    decided_epoch: int | None
    is_open: bool
    started_at: datetime
    finished_at: datetime | None
    tidied_at: datetime | None
    due: bool = False

    @property
    def is_under_way(self) -> bool:
        return self.state in UNDER_WAY

    @property
    def is_undecided(self) -> bool:
        return self.state in UNDECIDED


@dataclass(frozen=True, slots=True)
class Resource:
    """Something of a move on a shard, or what may be there."""

    shard: str
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """How long writers waited, and how much of it for the verification, in milliseconds."""

    write_ms: float
    verify_ms: float


def read_move(connection: CatalogConnection, move_id: UUID) -> Move | None:
    with connection.cursor(row_factory=class_row(Move)) as cursor:
        return cursor.execute(query("read_move").text, {"move_id": move_id}).fetchone()


class Record:
    """The catalog, for one mover. Every change raises `MoverReplaced` once there is another one."""

    def __init__(self, catalog: Catalog, term: int) -> None:
        self.catalog = catalog
        self.term = term

    def untidied(self) -> list[Move]:
        """All that there is to do, in order of asking."""
        with self._connection() as connection, connection.cursor(row_factory=class_row(Move)) as cursor:
            return cursor.execute(query("list_untidied_moves").text).fetchall()

    def read(self, move: Move) -> Move:
        with self._connection() as connection:
            found = read_move(connection, move.id)
        if found is None:
            raise MarketplaceError(f"move {move.id} is not in the catalog any more")
        return found

    def shard_map(self) -> ShardMap:
        return self.catalog.load().map

    def home(self, move: Move) -> str:
        """Where the shard map says that the store lives."""
        shard_map, flags = self.catalog.load()
        return shard_map.route(move.store_id, sharding=flags.sharding).shard

    def step(self, move: Move, state: State, step: str) -> None:
        """Write down what is about to be done, before the decision."""
        self._run("set_move_step", move, state=state, step=step)

    def note(self, move: Move, step: str) -> None:
        """Say what hinders it. Never its state: a decision that was in doubt may just be coming true."""
        self._run("note_move_step", move, step=step)

    def progress(
        self,
        move: Move,
        *,
        rows_total: int | None = None,
        rows_copied: int | None = None,
        lag_bytes: int | None = None,
    ) -> None:
        self._run(
            "set_move_progress", move, rows_total=rows_total, rows_copied=rows_copied, lag_bytes=lag_bytes
        )

    def hold_undecided(self, move: Move, step: str) -> bool:
        """Whether it may be taken back: False where it was decided after all, as by a commit that was in doubt."""
        return self._hold("hold_undecided_move", move, step)

    def hold_undoing(self, move: Move, step: str) -> bool:
        """Whether it is still to be undone: False where that was decided after all, as above."""
        return self._hold("hold_undoing_move", move, step)

    def begin_attempt(self, move: Move, step: str) -> None:
        self._run("begin_move_attempt", move, step=step)

    def register(self, move: Move, resource: Resource) -> None:
        """Before it is made."""
        self._run("register_resource", move, shard=resource.shard, kind=resource.kind, name=resource.name)

    def forget(self, move: Move, resource: Resource) -> None:
        """When it is gone."""
        self._run("forget_resource", move, shard=resource.shard, kind=resource.kind, name=resource.name)

    def resources(self, move: Move) -> list[Resource]:
        with self._connection() as connection:
            rows = connection.execute(query("list_resources").text, {"move_id": move.id})
            return [Resource(*row) for row in rows]

    def resource_names(self, shard: str) -> set[str]:
        with self._connection() as connection:
            rows = connection.execute(query("list_resource_names").text, {"shard": shard})
            return {name for (name,) in rows}

    def decide(self, move: Move, home: str, at: Position) -> int:
        """The one decision: with this commit the store lives on `home`, and every later route says so.

        `at` lies behind all that it has there. Returns the epoch. Raises `MoveFailed` where the flag `sharding` has
        gone off meanwhile: then everything lives on the first shard.
        """
        with self.catalog.decision() as connection:
            self._hold_term(connection)
            shard_map, flags = load(connection)
            if not flags.sharding:
                raise MoveFailed("sharding was switched off: every store lives on the first shard")
            (epoch,) = connection.execute(query("raise_epoch").text).fetchone() or (0,)
            undone = home == move.from_shard
            values = {
                "move_id": move.id,
                "state": "rolled_back" if undone else "switching",
                "step": "hands over",
                "epoch": epoch,
                "system_identifier": at.system_identifier,
                "timeline": at.timeline,
                "lsn": at.lsn,
                "source_pin": Json(_pin_before(shard_map, move)),
            }
            connection.execute(query("decide_move").text, values)
            _pin(connection, shard_map, move, home)
        return int(epoch)

    def opened(self, move: Move, state: State, pause: Pause | None) -> None:
        self._run(
            "open_move",
            move,
            state=state,
            step="can be undone for a while" if state == "done" else "tidies up",
            write_pause_ms=pause.write_ms if pause else None,
            verify_ms=pause.verify_ms if pause else None,
        )

    def failed(self, move: Move, error: str, state: State = "failed") -> None:
        self._run("fail_move", move, state=state, error=error)

    def refuse_undo(self, move: Move, error: str) -> None:
        self._run("refuse_undo", move, error=error)

    def finish(self, move: Move) -> None:
        self._run("finish_move", move)

    # Inside.

    @contextmanager
    def _connection(self) -> Iterator[CatalogConnection]:
        with self.catalog.connect() as connection:
            yield connection

    def _hold(self, name: str, move: Move, step: str) -> bool:
        with self._connection() as connection, connection.transaction():
            self._hold_term(connection)
            values = {"move_id": move.id, "step": step}
            return connection.execute(query(name).text, values).fetchone() is not None

    def _run(self, name: str, move: Move, /, **values: object) -> None:
        with self._connection() as connection, connection.transaction():
            self._hold_term(connection)
            connection.execute(query(name).text, {"move_id": move.id, **values})

    def _hold_term(self, connection: CatalogConnection) -> None:
        """Until the transaction's end nobody else becomes the mover."""
        if connection.execute(query("hold_mover_term").text, {"term": self.term}).fetchone() is None:
            raise MoverReplaced("another mover has taken over")


def _pin_before(shard_map: ShardMap, move: Move) -> list[object] | None:
    pin = shard_map.pins.get(move.store_id)
    return [pin.shard, pin.stays] if pin is not None else None


def _pin(connection: CatalogConnection, shard_map: ShardMap, move: Move, home: str) -> None:
    """Make the map lead to `home`: by a pin, or by none where ranges and ring do it and nobody wished for one."""
    natural, _ = shard_map.unpinned(move.store_id)
    if home == move.from_shard and move.decided_epoch is not None:
        wanted = move.source_pin is not None
        stays = move.source_pin is None or bool(move.source_pin[1])
    else:
        wanted = move.route == "pin"
        # Also where ranges or ring have changed since somebody asked for the store to follow them.
        stays = move.route in ("stay", "unpin")
    if wanted or natural != home:
        values = {"store": move.store_id, "shard": home, "stays": stays}
        connection.execute(query("set_pin").text, values)
    else:
        connection.execute(query("delete_pin").text, {"store": move.store_id})
