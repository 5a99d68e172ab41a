"""`flask shards rebalance`: stores go where they belong, and shards get what their weights ask for."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import click

from commands.cluster import Cluster, open_cluster
from commands.moves import driven
from commands.observe import ask_load
from commands.relocate import count_rows, pace_options, raise_for_failed, relocate
from commands.terminal import plain_errors, print_table
from errors import Conflict
from operations.load import load_by_store
from operations.moves import pin_store
from operations.placement import Placement, change_placement, one_at_a_time
from operations.rebalance import NO_LOAD, TOLERANCE, Load, Plan, Tally, plan
from operations.relocation import Pace
from routing.shard_map import ShardMap

# Of all stores. Figures are of the last minute or two: of a thousand requests a shard's part is known to some 5 %, of
# fewer to less than what the tolerance asks for.
_LEAST_REQUESTS = 10.0


@click.command("rebalance")
@click.option("--dry-run", is_flag=True, help="Print the plan, and change nothing.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=TOLERANCE,
    show_default=True,
    help="How far a shard may be from what its weight asks for, of that.",
)
@click.option(
    "--pin-whales", is_flag=True, help="Pin each whale to where it is to be: no plan moves it again."
)
@pace_options
@plain_errors
def rebalance_command(dry_run: bool, tolerance: float, pin_whales: bool, pace: Pace) -> None:
    """Bring stores where they belong, and every shard to its share of rows and load, with the fewest moves.

    First the stores that only stay where they are, as after flask shards add: they go where ranges and ring lead. Then,
    where a shard has too much, partitions with their stores change hands. Stores are moved a few at a time, while they
    are read and written. Ctrl-C stops; what is on the move goes on, and the next run does what is left. Fails where a
    store stays where it was; the others are moved.
    """
    cluster = open_cluster()
    with one_at_a_time(cluster.catalog):
        shard_map, flags = cluster.catalog.load()
        if not flags.sharding:
            raise Conflict(f"sharding is off: every store lives on {shard_map.first_shard}.")
        names = [shard.name for shard in shard_map.shards]
        rows = count_rows(cluster, shard_map, names)
        made = plan(shard_map, rows, _load(cluster), tolerance=tolerance, pin_whales=pin_whales)
        if dry_run:
            _print_plan(shard_map, made)
            return
        _print_whales(made)
        _put_in_force(cluster, shard_map, made)
        with driven(cluster) as process:
            relocation = relocate(cluster, process, "Rebalancing", made.transfers, pace)
        raise_for_failed(relocation)
        click.echo(f"{_counted(len(relocation.done), 'store')} moved, {_counted(made.rows, 'row')}.")


def _load(cluster: Cluster) -> Load:
    """What each store costs; nothing where too little goes on to tell."""
    seen = ask_load(cluster)
    if seen is None or sum(rate.requests for rate in seen.shards.values()) < _LEAST_REQUESTS:
        click.echo(f"fewer than {_LEAST_REQUESTS:g} requests a second: planned by rows alone", err=True)
        return NO_LOAD
    return load_by_store(cluster.catalog)


def _put_in_force(cluster: Cluster, shard_map: ShardMap, made: Plan) -> None:
    """The new owners and pins. Raises `Conflict` where the placement is another one by now than was planned for."""
    planned_for = Placement.of(shard_map)

    def change(now: ShardMap) -> Placement:
        if Placement.of(now) != planned_for:
            raise Conflict("The placement was changed meanwhile; run it again.")
        return Placement(made.partitions, now.ranges)

    def stores_of(shard: str) -> Sequence[UUID]:
        return cluster.stores_of(shard_map, shard)

    if made.partitions != planned_for.partitions:
        change_placement(cluster.catalog, stores_of, change)
    moving = {transfer.store_id for transfer in made.transfers}
    for store, shard in made.pins.items():
        if store not in moving:
            pin_store(cluster.catalog, store, shard, 0.0)


def _print_plan(shard_map: ShardMap, made: Plan) -> None:
    whole = sum(tally.rows for tally in made.before.values())
    click.echo(f"Shard map of epoch {shard_map.epoch}")
    print_table(
        ("shard", "should have", "stores", "rows", "load", "then stores", "rows", "load"),
        [
            (
                shard.name,
                f"{made.targets[shard.name]:.1%}" if shard.name in made.targets else "nothing",
                *_tally(made.before[shard.name], whole),
                *_tally(made.after[shard.name], whole),
            )
            for shard in shard_map.shards
        ],
    )
    _print_whales(made)
    if made.transfers:
        print_table(
            ("store", "from", "to", "rows", "by"),
            [
                (
                    str(one.store_id),
                    one.from_shard,
                    one.to_shard,
                    f"{one.rows:,}",
                    _reason(made, one.store_id),
                )
                for one in made.transfers
            ],
        )
    changed = sum(
        1
        for index, owner in zip(shard_map.partitions, made.partitions, strict=True)
        if shard_map.shards[index].name != owner
    )
    click.echo(
        f"{_counted(len(made.transfers), 'store')} to move, {_counted(made.rows, 'row')};"
        f" {_counted(made.stays, 'store')} of them only stayed where they were."
        f" {_counted(changed, 'partition')} to change hands."
    )


def _print_whales(made: Plan) -> None:
    for whale in made.whales:
        load = f", {whale.load:.1%} of the load" if whale.load else ""
        what = "pinned" if whale.is_pinned else "others make room; --pin-whales keeps it there"
        click.echo(f"whale {whale.store_id} on {whale.shard}: {whale.rows:.1%} of all rows{load}; {what}")


def _tally(tally: Tally, whole: int) -> tuple[str, str, str]:
    share = f" ({tally.rows / whole:.1%})" if whole else ""
    return f"{tally.stores:,}", f"{tally.rows:,}{share}", f"{tally.load:.1%}" if tally.load else "?"


def _reason(made: Plan, store: UUID) -> str:
    return "pin" if store in made.pins else "ring or range"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
