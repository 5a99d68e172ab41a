"""What moving a store promises, forced on a running `make up`; each prints a line of Markdown.

    make up                                                        # in another terminal
    .venv/bin/python -m bench.move_proofs frozen --writes 10000
    .venv/bin/python -m bench.move_proofs corruptions --times 5 --clean 50
    .venv/bin/python -m bench.move_proofs undone --writes 10000

frozen: a worker is stopped (SIGSTOP) with orders under way and others queued at it, the store moves, and at every third
time is also moved back, before the worker goes on. None of them is committed by the old home, each is sent anew once at
most, and all are answered; one that has waited for a connection while its worker slept may be told to come again.

corruptions: the copy is changed before it is compared, in five ways, in rows drawn by lot: every move stops, with the
store as it was. Moves of a store that is written to, and that nobody corrupts, all go through.

undone: a move is taken back after so many orders in the new home, while more come in.

Exits with 1 where a promise does not hold.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import UUID, uuid4

import psutil

import config
from bench.move_corruptions import corrupted_moves
from bench.moved import MovedStore
from bench.moves.load import ORDERS_ONLY, Load
from bench.replicas.stores import audit, good
from commands.cluster import open_cluster
from lab.servers import Servers, wait_for
from lab.wire import Answer, DroppedError, Request, Wire
from operations.moves import move_store

# As long as the worker may look frozen to the one that replaces such workers, many times.
_UNDER_WAY_SECONDS = 0.004
_ALL_SENT_SECONDS = 0.2
_UNDO_EVERY = 3
_STALE = re.compile(rb'^stale_writes_total\{outcome="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(slots=True)
class Frozen:
    """What became of the writes, by how the worker met them."""

    placed: dict[str, str] = field(default_factory=dict)  # idempotency key -> order
    under_way: int = 0
    queued: int = 0
    at_old_home: int = 0  # of those that were sent when the worker stood still
    failed: list[str] = field(default_factory=list)
    refused: int = 0  # for now, with nothing done: asked again with the same key, as a client does
    switches: int = 0


def frozen(servers: Servers, writes: int, connections: int, in_a_row: int) -> int:
    """Orders through workers that sleep while their store moves."""
    with Wire(servers.address) as wire:
        moved = MovedStore(servers, wire)
        before, found = _stale_writes(servers), Frozen()
        last = ""
        while len(found.placed) < writes and not found.failed:
            worker, wires, operator = _connections(servers, connections)
            moved.wire = operator  # of a worker that is awake
            last = _one_freeze(moved, worker, wires, in_a_row, found)
            for each in (*wires, operator):
                each.close()
            print(f"{found.switches} switches, {len(found.placed)} orders", file=sys.stderr)
        moved.wire = wire
        home, old = moved.home, moved.elsewhere
        checked = audit(servers, [moved.at(home)], found.placed)
        moved.tidied(last)
        after = _stale_writes(servers)
        left, rows = moved.left_over(), moved.rows(old)
    anew, given_up = (int(after[name] - before[name]) for name in ("routed", "given_up"))
    print(
        "| orders under way | queued | switches | sent anew, once | refused twice | by the old home | failed |",
        end="",
    )
    print(
        " 503, asked again | lost | doubled | units astray | rows left at the old home |\n"
        + "| ---: " * 12
        + "|"
    )
    met = (found.under_way, found.queued, found.switches, anew, given_up, found.at_old_home)
    became = (len(found.failed), found.refused, checked.lost, checked.doubled, checked.units_astray, rows)
    print("| " + " | ".join(f"{figure:,}" for figure in (*met, *became)) + " |")
    for line in (*found.failed[:5], *left):
        print(line)
    holds = checked.clean and not (given_up or found.at_old_home or found.failed or left or rows)
    return 0 if holds and 0 < anew <= len(found.placed) else 1


def _one_freeze(
    moved: MovedStore, worker: psutil.Process, wires: Sequence[Wire], in_a_row: int, found: Frozen
) -> str:
    """The store's move, while the worker sleeps."""
    old, target = moved.home, moved.elsewhere
    first, later = wires[: len(wires) // 4], wires[len(wires) // 4 :]
    with ThreadPoolExecutor(len(wires)) as threads:
        under_way = [threads.submit(_order, moved, wire, in_a_row) for wire in first]
        time.sleep(_UNDER_WAY_SECONDS)
        worker.suspend()
        try:
            queued = [threads.submit(_order, moved, wire, in_a_row) for wire in later]
            time.sleep(_ALL_SENT_SECONDS)
            path = moved.begin(target)
            if (move := moved.ended(path))["state"] != "done":
                raise SystemExit(f"{path}: {move['error']}")
            found.switches += 1
            if found.switches % _UNDO_EVERY == 0:
                moved.take_back(path)
                moved.until(path, "rolled_back")
                wait_for(lambda: moved.look(path)["step"] != "hands over", f"{path} is taken back")
                old, target = target, old
                found.switches += 1
        finally:
            worker.resume()
        for answers, are_queued in ((under_way, False), (queued, True)):
            for key, first_answer in (pair for each in answers for pair in each.result()):
                answer = first_answer
                found.queued += are_queued
                found.under_way += not are_queued
                if isinstance(answer, Answer) and answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    found.refused += 1
                    answer = _once_more(moved, wires[0], key)
                if not isinstance(answer, Answer) or not answer.good:
                    reason = (answer.status, answer.body) if isinstance(answer, Answer) else answer
                    found.failed.append(str(reason))
                    continue
                found.placed[key] = answer.document["id"]
                found.at_old_home += are_queued and answer.headers["x-served-by"].startswith(f"{old}-")
    return path


def _order(moved: MovedStore, wire: Wire, in_a_row: int) -> list[tuple[str, Answer | DroppedError]]:
    """So many orders, one behind the other on one connection; by their keys."""
    keys = [uuid4().hex for _ in range(in_a_row)]
    try:
        answers = wire.pipeline([_request(moved, key) for key in keys])
    except DroppedError as error:
        return [(key, error) for key in keys]
    return list(zip(keys, answers, strict=True))


def _once_more(moved: MovedStore, wire: Wire, key: str) -> Answer | DroppedError:
    try:
        return wire.request(*_request(moved, key))
    except DroppedError as error:
        return error


def _request(moved: MovedStore, key: str) -> Request:
    store = moved.store
    body = {"items": [{"product_id": store.products[0], "quantity": 1}]}
    return "POST", f"{store.path}/orders", {**store.merchant, "Idempotency-Key": key}, body


def _connections(servers: Servers, wanted: int) -> tuple[psutil.Process, list[Wire], Wire]:
    """A worker, so many connections that it has taken, and one that another has."""
    taken: dict[int, list[Wire]] = {process.pid: [] for process in servers.workers()}
    while min(map(len, taken.values())) == 0 or max(map(len, taken.values())) < wanted:
        wires = [Wire(servers.address) for _ in range(wanted)]
        for wire in wires:
            good(wire, "GET", "/v1/admin/flags", servers.operator)
        for pid, of_worker in taken.items():
            ports = {each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr}
            of_worker.extend(wire for wire in wires if wire.port in ports)
    most = max(taken, key=lambda pid: len(taken[pid]))
    other = next(pid for pid in taken if pid != most)
    for spare in (*taken[most][wanted:], *taken[other][1:]):
        spare.close()
    return psutil.Process(most), taken[most][:wanted], taken[other][0]


def _stale_writes(servers: Servers) -> dict[str, float]:
    """How often a write met a shard that its store had left, by what came of it."""
    with Wire(servers.address) as wire:
        text = wire.request("GET", "/metrics").body
    return {outcome.decode(): float(count) for outcome, count in _STALE.findall(text)}


def undone(servers: Servers, writes: int, clients: int) -> int:
    """A move that is taken back after so many writes in the new home."""
    with Wire(servers.address) as wire:
        moved = MovedStore(servers, wire)
        source, target = moved.home, moved.elsewhere
        load = Load(moved.store, servers.address, clients, per_second=1000.0, shares=ORDERS_ONLY)
        load.start()
        try:
            path = _move_for_long(moved, target)
            before = len(load.placed)
            wait_for(lambda: len(load.placed) >= before + writes or bool(load.failed), "the writes", 3600.0)
            in_new_home = len(load.placed) - before
            moved.take_back(path)
            move = moved.until(path, "rolled_back")
            after = len(load.placed)
            wait_for(lambda: len(load.placed) > after + clients or bool(load.failed), "writes go on")
        finally:
            load.stop()
        moved.tidied(path)
        checked = audit(servers, [moved.at(source)], load.placed)
        left, rows = moved.left_over(), moved.rows(target)
    print(
        "| orders in the new home | in all | pause of the undoing, ms | failed | lost | doubled | units astray |",
        end="",
    )
    print(" rows left there |\n" + "| ---: " * 8 + "|")
    figures = (in_new_home, checked.acknowledged, move["write_pause_ms"], len(load.failed), checked.lost)
    print("| " + " | ".join(f"{n:,}" for n in (*figures, checked.doubled, checked.units_astray, rows)) + " |")
    for line in (*load.failed[:5], *left):
        print(line)
    holds = checked.clean and in_new_home >= writes and not (load.failed or left or rows)
    return 0 if holds else 1


def _move_for_long(moved: MovedStore, target: str) -> str:
    """A move that can be undone for an hour; its path."""
    move = move_store(open_cluster().catalog, UUID(moved.store.store_id), target, undo_seconds=3600.0)
    path = f"/v1/admin/moves/{move.id}"
    if (ended := moved.ended(path))["state"] != "done":
        raise SystemExit(f"{path}: {ended['error']}")
    return path


@contextmanager
def unlimited(servers: Servers) -> Iterator[None]:
    """Without quotas meanwhile: all this load is one key's."""
    with Wire(servers.address) as wire:
        limited = good(wire, "GET", "/v1/admin/flags", servers.operator)["rate_limit"]
    if limited:
        servers.switch("rate_limit", enabled=False)
        time.sleep(1.0)  # in force on every worker then
    try:
        yield
    finally:
        if limited:
            servers.switch("rate_limit", enabled=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.move_proofs", description=__doc__.splitlines()[0])
    proofs = parser.add_subparsers(dest="proof", required=True)
    one = proofs.add_parser("frozen", help="a worker that sleeps while a store moves")
    one.add_argument("--writes", type=int, default=10_000, help="orders in all (%(default)s)")
    one.add_argument("--connections", type=int, default=20, help="to the frozen worker (%(default)s)")
    one.add_argument("--in-a-row", type=int, default=10, help="orders sent on each (%(default)s)")
    one = proofs.add_parser("corruptions", help="copies that differ, and copies that do not")
    one.add_argument("--times", type=int, default=5, help="each of five corruptions (%(default)s)")
    one.add_argument("--clean", type=int, default=50, help="moves that nobody corrupts (%(default)s)")
    one.add_argument("--random-seed", type=int, default=1, help="draws the rows (%(default)s)")
    one = proofs.add_parser("undone", help="a move that is taken back")
    one.add_argument("--writes", type=int, default=10_000, help="orders in the new home (%(default)s)")
    one.add_argument("--clients", type=int, default=8, help="at one time (%(default)s)")
    options = parser.parse_args(arguments)
    servers = Servers(config.load().var)
    with unlimited(servers):
        if options.proof == "frozen":
            return frozen(servers, options.writes, options.connections, options.in_a_row)
        if options.proof == "undone":
            return undone(servers, options.writes, options.clients)
        return corrupted_moves(servers, options.times, options.clean, options.random_seed)


if __name__ == "__main__":
    sys.exit(main())
