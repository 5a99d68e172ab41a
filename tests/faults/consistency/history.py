"""What happened: every request with its answer, every fault, and what every node held in the end.

Kept as JSON, one record a line, so that a history that failed can be read, and checked again, without a server.
Times are seconds of one process's monotonic clock. An operation is named by its number, in the order of starting.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

READS = ("read-product", "list-products", "read-order", "list-orders")
WRITES = ("change-price", "place-order")
MERCHANT = "merchant"  # how the name of a merchant key begins: who holds one sees all orders of the store


@dataclass(frozen=True, slots=True)
class Operation:
    """One request and its answer.

    What it may count on stands in two fields: `carried` names the operations whose Consistency-Token it sent, by
    header or cookie; `credential` is the key or session token it sent, by a name of ours. `sent` has what it asked
    for: `product` and `price`, or `key` and `items` (product → quantity), or `order`, or `limit`.

    `status` is None where the connection ended before the answer was there; `problem` and `detail` are of one that is
    not good. `products` are the versions and prices
    that came back, `orders` the ids; `whole`: the list ended with them, so that what is not in it is not there.
    """

    number: int
    session: str
    kind: str
    shard: str
    store: str
    started: float
    ended: float
    carried: tuple[int, ...] = ()
    credential: str | None = None
    sent: Mapping[str, Any] = field(default_factory=dict)
    status: int | None = None
    problem: str | None = None
    detail: str | None = None
    products: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    orders: tuple[str, ...] = ()
    whole: bool = True
    served_by: str | None = None
    token: str | None = None

    @property
    def good(self) -> bool:
        return self.status in (200, 201)

    @property
    def in_doubt(self) -> bool:
        """Nobody knows what became of it: the service did not say, or said so."""
        return self.status is None or self.status == 503

    @property
    def found(self) -> dict[str, tuple[int, int]]:
        """The products' versions and prices that an acknowledged request wrote or saw."""
        return dict(self.products) if self.good else {}

    def __str__(self) -> str:
        what = ", ".join(f"{name}={value}" for name, value in self.sent.items())
        came = " ".join(str(each) for each in (self.status or "dropped", self.problem, self.detail) if each)
        return f"#{self.number} {self.session} {self.kind}({what}) → {came} by {self.served_by or 'nobody'}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the nemesis did: `verb` to `target`, a node or a worker of `shard`."""

    verb: str
    shard: str
    target: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Look:
    """What one store held in the end, when everything was well again: as `source` says, a node, or `api`.

    `products`: id → version, price, stock. `orders`: id → product → quantity. `keys`: idempotency key → order id, of
    the table that only a node can show.
    """

    source: str
    store: str
    products: Mapping[str, tuple[int, int, int]]
    orders: Mapping[str, Mapping[str, int]]
    keys: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Stock:
    """A product as it was before the first operation."""

    product: str
    store: str
    shard: str
    price: int
    units: int


@dataclass(frozen=True, slots=True)
class History:
    """`made` says how: the seed, the schedule that came of it, and the tokens of which the service said that a write
    of theirs is lost (`reported`)."""

    made: Mapping[str, Any] = field(default_factory=dict)
    stocks: tuple[Stock, ...] = ()
    operations: tuple[Operation, ...] = ()
    events: tuple[Event, ...] = ()
    looks: tuple[Look, ...] = ()

    @property
    def reported(self) -> list[str]:
        return list(self.made.get("reported", ()))

    def save(self, path: Path) -> None:
        records: list[tuple[str, Any]] = [("made", self.made)]
        for kind, each in _KINDS.items():
            records += [(kind, asdict(record)) for record in getattr(self, each)]
        lines = (json.dumps({"record": kind, **record}) for kind, record in records)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> History:
        return cls.of(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]]) -> History:
        found: dict[str, Any] = {"made": {}} | {each: [] for each in _KINDS.values()}
        for record in records:
            kind = record.pop("record")
            if kind == "made":
                found["made"] = record
            else:
                found[_KINDS[kind]].append(_CLASSES[kind](**_tupled(record)))
        return cls(found["made"], **{each: tuple(found[each]) for each in _KINDS.values()})


_KINDS = {"stock": "stocks", "operation": "operations", "event": "events", "look": "looks"}
_CLASSES: dict[str, Any] = {"stock": Stock, "operation": Operation, "event": Event, "look": Look}


def _tupled(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    for name in ("carried", "orders"):
        if isinstance(record.get(name), list):
            record[name] = tuple(record[name])
    if "products" in record:
        record["products"] = {product: tuple(values) for product, values in record["products"].items()}
    return record


class Recorder:
    """Gathers a history while it happens. Used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._operations: list[Operation] = []
        self.events: list[Event] = []

    @property
    def count(self) -> int:
        """How many operations have ended."""
        return len(self._operations)

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def begin(self) -> tuple[int, float]:
        """The number of an operation that starts now."""
        with self._lock:
            number = self._next
            self._next += 1
            return number, time.monotonic()

    def add(self, operation: Operation) -> None:
        with self._lock:
            self._operations.append(operation)

    def operations(self) -> tuple[Operation, ...]:
        with self._lock:
            return tuple(sorted(self._operations, key=lambda operation: operation.number))
