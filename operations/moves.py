"""Having a store live elsewhere: what is asked for here is done by the mover (moves/)."""

from __future__ import annotations

from typing import Any, get_args
from uuid import UUID

from psycopg.rows import class_row

import ids
from errors import Conflict, NotFound
from moves.record import Move, State, read_move
from routing.catalog import Catalog, CatalogConnection, load
from routing.route import Route
from routing.shard_map import ShardMap
from sql import query


def move_store(
    catalog: Catalog, store_id: UUID, to_shard: str, undo_seconds: float, *, stays: bool = False
) -> Move:
    """Ask for a store to be moved; the mover comes to it. `stays`: nobody wishes that store there, a rebalance may
    move it on.

    The caller knows that there is such a store. Raises `NotFound` for an unknown shard, `Conflict` where the store
    lives there already, is on a move, or where sharding is off.
    """
    with catalog.decision() as connection:
        shard_map, home = _home(connection, store_id)
        _check_shard(shard_map, to_shard)
        if home.shard == to_shard:
            raise Conflict(f"The store lives on {to_shard} already.")
        return _insert(
            connection, store_id, (home.shard, to_shard), "stay" if stays else "auto", undo_seconds
        )


def pin_store(catalog: Catalog, store_id: UUID, shard: str, undo_seconds: float) -> Move | None:
    """Have a store live on this shard whatever ring and ranges say; the move that takes, if it takes one.

    Raises as `move_store`, but not where the store lives there.
    """
    with catalog.decision() as connection:
        shard_map, home = _home(connection, store_id)
        _check_shard(shard_map, shard)
        if home.shard != shard:
            return _insert(connection, store_id, (home.shard, shard), "pin", undo_seconds)
        _refuse_on_the_move(connection, store_id)
        pin = shard_map.pins.get(store_id)
        if pin is None or pin.stays:
            values = {"store": store_id, "shard": shard, "stays": False}
            connection.execute(query("set_pin").text, values)
            connection.execute(query("raise_epoch").text)
    return None


def unpin_store(catalog: Catalog, store_id: UUID, undo_seconds: float) -> Move | None:
    """Have ring and ranges decide where a store lives; the move that takes, if it takes one. Raises as `pin_store`."""
    with catalog.decision() as connection:
        shard_map, home = _home(connection, store_id)
        natural, _ = shard_map.unpinned(store_id)
        if home.shard != natural:
            return _insert(connection, store_id, (home.shard, natural), "unpin", undo_seconds)
        _refuse_on_the_move(connection, store_id)
        if store_id in shard_map.pins:
            connection.execute(query("delete_pin").text, {"store": store_id})
            connection.execute(query("raise_epoch").text)
    return None


def find_move(catalog: Catalog, move_id: UUID) -> Move:
    """Raises `NotFound`."""
    with catalog.connect() as connection:
        move = read_move(connection, move_id)
    if move is None:
        raise NotFound("There is no such move.")
    return move


def count_moves(catalog: Catalog) -> dict[str, int]:
    """How many moves that are not tidied up yet are in which state; all of the states are named. Raises what the
    catalog's connection does."""
    with catalog.connect() as connection:
        rows = connection.execute(query("count_moves").text, prepare=True).fetchall()
    return dict.fromkeys(get_args(State), 0) | dict(rows)


def list_shown_moves(catalog: Catalog) -> list[Move]:
    """What is under way, and what ended last. Raises what the catalog's connection does."""
    with catalog.connect() as connection, connection.cursor(row_factory=class_row(Move)) as cursor:
        return cursor.execute(query("list_shown_moves").text, prepare=True).fetchall()


def undo_move(catalog: Catalog, move_id: UUID) -> Move:
    """Ask for a move to be taken back: before its switch, or after it while there is time. Raises `NotFound`, and
    `Conflict` where it is too late."""
    find_move(catalog, move_id)
    # Nobody asks for another move of the store meanwhile.
    with catalog.decision() as connection:
        if not connection.execute(query("ask_to_undo").text, {"move_id": move_id}).fetchone():
            move = read_move(connection, move_id)
            assert move is not None
            if move.tidied_at is None and (move.is_under_way or move.state == "done"):
                raise Conflict("The store is on another move, and this one cannot be undone any more.")
            raise Conflict(f"The move is {move.state}, and cannot be undone any more.")
    return find_move(catalog, move_id)


def move_document(move: Move) -> dict[str, Any]:
    """What the operator API says of a move."""
    return {
        "id": move.id,
        "store_id": move.store_id,
        "from_shard": move.from_shard,
        "to_shard": move.to_shard,
        "state": move.state,
        "step": move.step,
        "rows_total": move.rows_total,
        "rows_copied": move.rows_copied,
        "lag_bytes": move.lag_bytes,
        "write_pause_ms": _rounded(move.write_pause_ms),
        "verify_ms": _rounded(move.verify_ms),
        "started_at": move.started_at,
        "finished_at": move.finished_at,
        "undo_until": move.undo_until,
        "error": move.error,
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)


def _home(connection: CatalogConnection, store_id: UUID) -> tuple[ShardMap, Route]:
    """The map of this moment, which does not change before the transaction's end, and the store's route by it."""
    shard_map, flags = load(connection)
    if not flags.sharding:
        raise Conflict(f"sharding is off: every store lives on {shard_map.first_shard}.")
    return shard_map, shard_map.route(store_id, sharding=True)


def _check_shard(shard_map: ShardMap, name: str) -> None:
    if all(shard.name != name for shard in shard_map.shards):
        raise NotFound(f"There is no shard {name}.")


def _refuse_on_the_move(connection: CatalogConnection, store_id: UUID) -> None:
    if connection.execute(query("find_move_under_way").text, {"store": store_id}).fetchone():
        raise _moving()
    if connection.execute(query("find_undoing").text, {"store": store_id}).fetchone():
        raise Conflict("The store's last move is being undone.")


def _insert(
    connection: CatalogConnection, store_id: UUID, shards: tuple[str, str], route: str, undo_seconds: float
) -> Move:
    _refuse_on_the_move(connection, store_id)
    move_id = ids.new_id()
    values = {"move_id": move_id, "store": store_id, "route": route, "undo_seconds": undo_seconds}
    values |= dict(zip(("from_shard", "to_shard"), shards, strict=True))
    if connection.execute(query("insert_move").text, values).fetchone() is None:
        raise _moving()
    move = read_move(connection, move_id)
    assert move is not None
    return move


def _moving() -> Conflict:
    return Conflict("The store is on a move already.")
