"""`flask shards ranges`, `set-range`, `drop-range`, `pin` and `unpin`: routes beside the ring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import click

from commands.cluster import Cluster, open_cluster
from commands.moves import check_store, driven, follow
from commands.relocate import count_rows, pace_options, raise_for_failed, relocate
from commands.terminal import Failure, plain_errors, print_table
from moves.record import Move
from operations.flags import StoresOf
from operations.moves import pin_store, unpin_store
from operations.ranges import RangeChange, drop_range, set_range
from operations.relocation import Pace
from routing.shard_map import Range


@click.command("ranges")
@plain_errors
def ranges_command() -> None:
    """List the ranges of store ids that live on one shard, whatever the ring says."""
    ranges = open_cluster().snapshot().map.ranges
    print_table(
        ("low", "high, not included", "shard"),
        [(str(part.low), str(part.high), part.shard) for part in ranges],
    )


@click.command("set-range")
@click.argument("low", type=click.UUID)
@click.argument("high", type=click.UUID)
@click.argument("shard")
@pace_options
@plain_errors
def set_range_command(low: UUID, high: UUID, shard: str, pace: Pace) -> None:
    """Have the stores from LOW up to HIGH, which is not included, live on SHARD, whatever the ring says.

    New ones go there at once; those that there are move now, and are found where they live until each has moved. A
    range that begins at LOW is replaced. Stopped, flask shards rebalance does what is left.
    """
    cluster = open_cluster()
    change = set_range(cluster.catalog, _stores_of(cluster), Range(low, high, shard), ask=False)
    _move(cluster, change, pace)


@click.command("drop-range")
@click.argument("low", type=click.UUID)
@pace_options
@plain_errors
def drop_range_command(low: UUID, pace: Pace) -> None:
    """Have the ring say where the stores of the range that begins at LOW live; they move where it says elsewhere."""
    cluster = open_cluster()
    _move(cluster, drop_range(cluster.catalog, _stores_of(cluster), low, ask=False), pace)


@click.command("pin")
@click.argument("store_id", type=click.UUID)
@click.argument("shard")
@plain_errors
def pin_command(store_id: UUID, shard: str) -> None:
    """Have the store STORE_ID live on SHARD whatever ranges and ring say; it moves now if it lives elsewhere."""
    cluster = open_cluster()
    check_store(cluster, store_id)
    _await(cluster, pin_store(cluster.catalog, store_id, shard, cluster.settings.move_undo_seconds))
    click.echo(f"{store_id} is pinned to {shard}.")


@click.command("unpin")
@click.argument("store_id", type=click.UUID)
@plain_errors
def unpin_command(store_id: UUID) -> None:
    """Have ranges and ring say where the store STORE_ID lives; it moves now if they say elsewhere."""
    cluster = open_cluster()
    check_store(cluster, store_id)
    _await(cluster, unpin_store(cluster.catalog, store_id, cluster.settings.move_undo_seconds))
    click.echo(f"{store_id} goes by ranges and ring: {cluster.snapshot().map.unpinned(store_id)[0]}.")


def _await(cluster: Cluster, move: Move | None) -> None:
    if move is None:
        return
    with driven(cluster) as process:
        move = follow(cluster, process, move, lambda found: found.finished_at is not None)
        if move.state != "done":
            raise Failure(f"{move.store_id} stays on {move.from_shard}: {move.error}")


def _move(cluster: Cluster, change: RangeChange, pace: Pace) -> None:
    homes = {transfer.from_shard for transfer in change.transfers}
    rows = count_rows(cluster, cluster.catalog.load().map, homes)
    transfers = [replace(one, rows=rows.get(one.store_id, 1)) for one in change.transfers]
    with driven(cluster) as process:
        relocation = relocate(cluster, process, "Moving", transfers, pace)
    raise_for_failed(relocation)
    part = change.range
    click.echo(f"{part.low} to {part.high}: {len(relocation.done)} stores moved.")


def _stores_of(cluster: Cluster) -> StoresOf:
    shard_map = cluster.catalog.load().map

    def stores_of(shard: str) -> Sequence[UUID]:
        return cluster.stores_of(shard_map, shard)

    return stores_of
