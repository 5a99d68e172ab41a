"""`flask seed`"""

from __future__ import annotations

from pathlib import Path

import click

from commands.cluster import open_cluster
from commands.terminal import plain_errors, progress
from operations.credentials import Credentials
from operations.passwords import hash_password
from operations.seed import DEMO_PASSWORD, Seeded, SeedPlan, seed
from operations.seeding.plan import plan_stores
from operations.seeding.vocabulary import make_vocabulary

_STORES = click.IntRange(1, 1_000_000)
_ROWS = click.IntRange(0, 1_000_000_000)
_PRODUCTS = "Products of all stores together, spread evenly."
_ORDERS = "Orders of all stores together, spread evenly; one to three lines each."
_KEYS = "Make each store a merchant key and write them to this file, mode 0600, a line of JSON each."


@click.command("seed")
@click.option("--stores", type=_STORES, default=10, show_default=True, help="How many stores.")
@click.option("--products", type=_ROWS, default=2_000, show_default=True, help=_PRODUCTS)
@click.option("--orders", type=_ROWS, default=1_000, show_default=True, help=_ORDERS)
@click.option("--random-seed", type=int, default=1, show_default=True, help="The same number, the same data.")
@click.option("--keys", type=click.Path(dir_okay=False, path_type=Path), help=_KEYS)
@plain_errors
def seed_command(stores: int, products: int, orders: int, random_seed: int, keys: Path | None) -> None:
    """Fill the shards with Faker data, all shards side by side.

    The same --random-seed with the same numbers makes the same rows: ids, titles, prices, times. Only
    merchant keys and password hashes differ. Seeded rows are dated in 2025, so whatever is made by hand is
    newer.

    Every store gets a customer for each four orders, five at least: shopper-1@example.com,
    shopper-2@example.com and so on, all with the password demo-password.

    Either everything is made or nothing. A seed that was used before is refused, and changes nothing.
    """
    cluster = open_cluster()
    words = make_vocabulary(random_seed)
    try:
        planned = plan_stores(stores, products, orders, random_seed, words)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    plan = SeedPlan(planned, words, hash_password(DEMO_PASSWORD, cluster.settings.scrypt_log2_n))
    new_key = Credentials(cluster.settings.secret_key, "", 0).new_merchant_key
    with progress("Seeding", plan.rows) as advance:
        made = seed(
            plan, cluster.catalog, cluster.shard_dsn, new_key=new_key, keys_file=keys, progress=advance
        )
    click.echo(_summary(made))
    for shard, count in sorted(made.stores.items()):
        click.echo(f"{shard}: {count:,} stores")
    if keys is not None:
        click.echo(f"Merchant keys: {keys}")


def _summary(made: Seeded) -> str:
    seconds = max(made.seconds, 0.001)
    return (
        f"Seeded {sum(made.stores.values()):,} stores, {made.products:,} products,"
        f" {made.customers:,} customers, {made.orders:,} orders: {made.rows:,} rows in {made.seconds:.1f} s,"
        f" {made.rows / seconds:,.0f} rows/s ({made.products / seconds:,.0f} products/s)."
    )
