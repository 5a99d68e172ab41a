"""Whether a history kept what was promised. Pure: it asks no server, and says the same whenever it is asked again.

`check` holds a history against these rules; each finding names the operations that contradict each other.

    stale-read     a read that began after a write was acknowledged does not see it, or a later one
    went-back      a read sees less than an earlier read of the same session had seen
    forked         one version of a product has two prices: two histories were told
    made-up        a read saw a price that nobody had sent by then
    lost-write     what was acknowledged is not there in the end
    duplicate      one idempotency key, two orders; or an order that nobody asked for
    stock          the units sold and the units left are not those there were
    disturbed      a shard that no fault touched did not answer
    wrong-answer   an answer that no fault explains

Which writes a read must see: those of the operations whose token it carried, with all that these had seen; and those
acknowledged to the same credential before it began. A token stands for what its bearer wrote and saw; a credential
for what was written and seen with it. A write that the service itself said is lost may be missed: then nobody was
told that an old answer is a new one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.consistency.history import MERCHANT, READS, History, Look, Operation
from tests.faults.consistency.knowledge import How, Past

NOT_FOUND, UNAVAILABLE = 404, 503


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: which rule, by which operations (their numbers), and in words."""

    rule: str
    operations: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def check(history: History) -> list[Finding]:
    """Everything that is wrong with a history: nothing, if all promises were kept."""
    return [finding for rule in RULES for finding in rule(history)]


def reads(history: History) -> Iterator[Finding]:
    """`stale-read` and `went-back`: what a read must see, and does not."""
    past = Past(history.operations)
    for operation in history.operations:
        known = past.before(operation)
        if operation.kind not in READS or operation.in_doubt:
            continue
        missed: set[str] = set()  # each once, as the graver of the two
        for rule, needed in (("stale-read", known.written), ("went-back", known.seen)):
            for name, how, instead in _missing(operation, needed):
                if name not in missed and how.by.token not in history.reported:
                    missed.add(name)
                    text = f"{operation} has {instead}, behind {how.by}"
                    yield Finding(rule, (how.by.number, operation.number), text)


def _missing(operation: Operation, needed: Mapping[str, How]) -> Iterator[tuple[str, How, str]]:
    """What an answer should have had, how that is known, and what it had instead."""
    for product, (version, _) in operation.found.items():
        how = needed.get(product)
        if how is not None and version < how.version:
            yield product, how, f"version {version} of product {product} instead of {how.version}"
    if operation.kind in ("read-product", "read-order") and operation.status == NOT_FOUND:
        name = operation.sent["product" if operation.kind == "read-product" else "order"]
        if name in needed:
            yield name, needed[name], "nothing"
    elif operation.kind == "list-orders" and operation.good:
        # Newest first, and an order's id tells its time: a page holds every order from its last one on.
        reaches = "" if operation.whole else min(operation.orders)
        for order in needed.keys() - set(operation.orders):
            if needed[order].by.orders and order >= reaches and _may_see(operation, needed[order].by):
                yield order, needed[order], f"no order {order}"


def _may_see(operation: Operation, told: Operation) -> bool:
    """Whether a list of orders has what another operation was told of: the merchant's all of the store, a shopper's
    their own."""
    is_merchant = (operation.credential or "").startswith(MERCHANT)
    return told.store == operation.store and (is_merchant or told.credential == operation.credential)


def prices(history: History) -> Iterator[Finding]:
    """`forked` and `made-up`: versions and prices that contradict each other, or come from nowhere."""
    told: dict[tuple[str, int], tuple[int, Operation]] = {}
    sent: dict[tuple[str, int], float] = {}
    for stock in history.stocks:
        sent[stock.product, stock.price] = float("-inf")
    for operation in history.operations:
        if operation.kind == "change-price":
            sent[operation.sent["product"], operation.sent["price"]] = operation.started
    for operation in history.operations:
        for product, (version, price) in operation.found.items():
            first_price, first = told.setdefault((product, version), (price, operation))
            if first_price != price:
                text = f"version {version} of product {product} is {first_price} by {first}, {price} by {operation}"
                yield Finding("forked", (first.number, operation.number), text)
            if sent.get((product, price), float("inf")) > operation.ended:
                yield Finding(
                    "made-up", (operation.number,), f"{operation} has a price that nobody sent: {price}"
                )


def lost_writes(history: History) -> Iterator[Finding]:
    """Acknowledged writes against what each source held in the end."""
    for look in history.looks:
        for operation in history.operations:
            if operation.store != look.store or not operation.good:
                continue
            for product, (version, price) in operation.found.items():
                if text := _undone(look, product, version, price):
                    yield Finding("lost-write", (operation.number,), f"{operation}: {text}")
            if operation.kind == "place-order":
                for order in operation.orders:
                    if order not in look.orders:
                        text = f"{operation}: order {order} is not at {look.source}"
                        yield Finding("lost-write", (operation.number,), text)


def _undone(look: Look, product: str, version: int, price: int) -> str | None:
    if product not in look.products:
        return f"{look.source} has no product {product}"
    last_version, last_price, _ = look.products[product]
    if last_version < version:
        return f"{look.source} has version {last_version} of product {product}, which was at {version}"
    if last_version == version and last_price != price:
        return f"{look.source} has {last_price} for version {version} of product {product}, which was {price}"
    return None


def duplicates(history: History) -> Iterator[Finding]:
    """One key, one order; and no order without a key that was sent."""
    answered: dict[str, dict[str, Operation]] = defaultdict(dict)
    asked: dict[str, set[str]] = defaultdict(set)
    for operation in history.operations:
        if operation.kind == "place-order":
            asked[operation.store].add(operation.sent["key"])
            for order in operation.orders if operation.good else ():
                answered[operation.sent["key"]].setdefault(order, operation)
    for key, orders in answered.items():
        if len(orders) > 1:
            text = f"key {key} has {len(orders)} orders: {', '.join(str(each) for each in orders.values())}"
            yield Finding("duplicate", tuple(each.number for each in orders.values()), text)
    for look in history.looks:
        for key, order in (look.keys or {}).items():
            if order not in answered.get(key, {order: None}):
                first = next(iter(answered[key].values()))
                text = f"{look.source} has order {order} for key {key}, and {first} was told another"
                yield Finding("duplicate", (first.number,), text)
        unasked = set(look.keys or {}) - asked[look.store]
        if look.keys is not None:
            unasked |= look.orders.keys() - set(look.keys.values())
        for order in sorted(unasked):
            yield Finding("duplicate", (), f"{look.source} has order or key {order}, which nobody asked for")


def stock(history: History) -> Iterator[Finding]:
    """Units sold and units left are the units there were, wherever one looks."""
    for look in history.looks:
        sold: dict[str, int] = defaultdict(int)
        for items in look.orders.values():
            for product, quantity in items.items():
                sold[product] += quantity
        for there in history.stocks:
            if there.store == look.store and there.product in look.products:
                left = look.products[there.product][2]
                if left + sold[there.product] != there.units:
                    text = f"of {there.units} units of {there.product} {sold[there.product]} are sold and {left} left"
                    yield Finding("stock", (), f"{look.source}: {text}")


def availability(history: History) -> Iterator[Finding]:
    """`disturbed` and `wrong-answer`: what nothing that was done explains."""
    touched = {event.shard for event in history.events}
    workers_died = any(event.verb == "kill-worker" for event in history.events)
    for operation in history.operations:
        if operation.status is None:
            wrong = not workers_died
        else:
            wrong = not operation.good and operation.status != UNAVAILABLE and not _is_explained(operation)
        if wrong:
            yield Finding("wrong-answer", (operation.number,), str(operation))
        elif operation.status == UNAVAILABLE and operation.shard not in touched:
            yield Finding("disturbed", (operation.number,), str(operation))


def _is_explained(operation: Operation) -> bool:
    """An order whose first try still runs; what is not there, which `reads` judges: to whom nothing is promised, a
    replica need not have it yet."""
    is_read = operation.kind in ("read-product", "read-order")
    return operation.problem == "request-in-progress" or (is_read and operation.status == NOT_FOUND)


RULES: Sequence[Callable[[History], Iterator[Finding]]] = (
    reads,
    prices,
    lost_writes,
    duplicates,
    stock,
    availability,
)
