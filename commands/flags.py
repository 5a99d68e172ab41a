"""`flask flags list` and `flask flags set`"""

from __future__ import annotations

import json

import click

from commands.cluster import open_cluster
from commands.terminal import plain_errors, print_table
from operations.flags import set_flag


@click.group("flags")
def flags_group() -> None:
    """The five layers that switch on and off while the service runs."""


@flags_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="The document of GET /v1/admin/flags.")
@plain_errors
def list_command(as_json: bool) -> None:
    """Print each flag and whether it is on."""
    flags = open_cluster().snapshot().flags.as_dict()
    if as_json:
        click.echo(json.dumps(flags))
        return
    print_table(("flag", "state"), [(name, "on" if enabled else "off") for name, enabled in flags.items()])


@flags_group.command("set")
@click.argument("name")
@click.argument("state", type=click.Choice(["on", "off"]))
@plain_errors
def set_command(name: str, state: str) -> None:
    """Switch the layer NAME on or off; every worker follows within a second.

    `sharding` goes off only while every store lives on the first shard (see: flask shards gather). On again,
    stores stay where they are until a rebalance.
    """
    cluster = open_cluster()
    shard_map = cluster.snapshot().map
    set_flag(cluster.catalog, name, state == "on", lambda shard: cluster.stores_of(shard_map, shard))
    click.echo(f"{name} is {state}.")
