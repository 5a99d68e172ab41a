"""One run: sessions at work while the nemesis carries out what a seed says; then everything is healed and looked at."""

from __future__ import annotations

import re
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from lab.wire import Wire
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.faults.consistency.checker import Finding
from tests.faults.consistency.history import History, Look, Recorder
from tests.faults.consistency.market import Market, every_page, open_markets
from tests.faults.consistency.nemesis import Nemesis, Schedule
from tests.faults.consistency.sessions import Session, make_sessions
from tests.shard_servers import Servers, running_servers, until

# Operations of the sessions when the last fault is over.
TAIL = 100


@contextmanager
def under_test() -> Iterator[tuple[Servers, Service]]:
    """Two shards of three nodes, and the service with reads from replicas and from the cache, and with locks."""
    with (
        running_servers(replicas=2) as servers,
        fresh_databases(servers.cluster) as databases,
        serving(databases.settings) as service,
    ):
        for flag in ("read_replicas", "redis_cache", "distributed_locks"):
            switch_on(service, flag)
        yield servers, service


def switch_on(service: Service, flag: str) -> None:
    operator = {"Authorization": f"Bearer {service.operator_token}"}
    with Wire(address_of(service)) as wire:
        answer = wire.request("PUT", f"/v1/admin/flags/{flag}", operator, {"enabled": True})
    assert answer.good, answer.body


def address_of(service: Service) -> str:
    return urlsplit(service.base_url).netloc


def run(servers: Servers, service: Service, schedule: Schedule, seed: int) -> History:
    """Carry a schedule out and return what happened."""
    recorder, address = Recorder(), address_of(service)
    markets = open_markets(address, service.operator_token)
    nemesis = Nemesis(servers, service, recorder, schedule)
    for market in markets:
        nemesis.upkeep.await_replayed(market.shard)  # whoever carries nothing is to find the products as well
    sessions = make_sessions(address, recorder, markets, seed)
    with _at_work(sessions):
        nemesis.run()
        enough = recorder.count + TAIL
        until(lambda: recorder.count >= enough, 120.0)
    nemesis.upkeep.heal()
    for session in sessions:
        session.settle()
        session.close()
    for market in markets:
        nemesis.upkeep.await_replayed(market.shard)
    return History(
        {"seed": seed, "schedule": schedule.as_dict(), "reported": reported_lost(service)},
        tuple(stock for market in markets for stock in market.stocks),
        recorder.operations(),
        tuple(recorder.events),
        tuple(look for market in markets for look in _looks(servers, service, market)),
    )


def reported_lost(service: Service) -> list[str]:
    """The tokens of which the service's log says that a write of theirs is lost."""
    return re.findall(r"has lost a write: token (\S+) names", service.log.read_text())


@contextmanager
def _at_work(sessions: list[Session]) -> Iterator[None]:
    """Every session in a thread of its own; what one raises is raised at the end."""
    done = threading.Event()
    with ThreadPoolExecutor(len(sessions)) as threads:
        running = [threads.submit(session.run, done) for session in sessions]
        try:
            yield
        finally:
            done.set()
        for each in running:
            each.result()


def _looks(servers: Servers, service: Service, market: Market) -> Iterator[Look]:
    """A store as the service tells it, and as it stands on each of its shard's nodes."""
    wire = Wire(address_of(service))
    products = every_page(lambda path: wire.request("GET", path), f"{market.path}/products")
    orders = every_page(
        lambda path: wire.request("GET", path, market.merchant.header), f"{market.path}/orders"
    )
    wire.close()
    yield Look(
        "api",
        market.store,
        {each["id"]: (each["version"], each["price"], each["stock"]) for each in products},
        {order["id"]: {line["product_id"]: line["quantity"] for line in order["items"]} for order in orders},
    )
    for node in servers.nodes:
        if node.shard == market.shard:
            yield _look_at(servers, node.name, service.settings.database_name, market.store)


def _look_at(servers: Servers, node: str, database: str, store: str) -> Look:
    products = servers.sql(
        node,
        "SELECT id::text, version, price, stock FROM products WHERE store_id = %s",
        store,
        database=database,
    )
    orders: dict[str, dict[str, int]] = defaultdict(dict)
    for order, product, quantity in servers.sql(
        node,
        "SELECT o.id::text, i.product_id::text, i.quantity FROM orders AS o"
        " LEFT JOIN order_items AS i ON i.store_id = o.store_id AND i.order_id = o.id WHERE o.store_id = %s",
        store,
        database=database,
    ):
        orders[order][product] = quantity
    keys = servers.sql(
        node,
        "SELECT key, order_id::text FROM idempotency_keys WHERE store_id = %s",
        store,
        database=database,
    )
    return Look(node, store, {each: (*rest,) for each, *rest in products}, dict(orders), dict(keys))


def keep(history: History) -> Path:
    """Write a history where whoever looks into a failure finds it; the file."""
    folder = Path(tempfile.mkdtemp(prefix="infinite-scaling-history-"))
    file = folder / f"seed-{history.made['seed']}.jsonl"
    history.save(file)
    return file


def verdict(history: History, findings: list[Finding]) -> str:
    """What a history was, and what is wrong with it, in a few lines; kept in a file where something is."""
    good = sum(operation.good for operation in history.operations)
    nodes = sorted(
        {name for each in history.operations for name in (each.served_by or "").split(", ") if name}
    )
    lines = [
        f"seed {history.made['seed']}: {len(history.operations)} operations, {good} good; {', '.join(nodes)} answered",
        f"{len(history.reported)} times a write was said to be lost",
        *(f"  {event.verb} {event.target}" for event in history.events),
    ]
    if findings:
        file = keep(history)
        lines += [f"{len(findings)} findings, in {file}:", *(f"  {finding}" for finding in findings[:20])]
        lines += [
            f"again from the file: python -m tests.faults.consistency check {file}",
            f"the same schedule again: python -m tests.faults.consistency run --schedule {file}",
        ]
    return "\n".join(lines)
