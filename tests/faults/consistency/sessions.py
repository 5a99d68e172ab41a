"""Who writes and reads: sessions that carry their consistency each in a way of its own.

    header      the Consistency-Token of the last answer, as a header
    cookie      the same, as a browser keeps it
    credential  nothing but the merchant key or the session token
    handed      the token of another session's last answer as a header, its own as a cookie
    nothing     no promise at all: whoever reads so may see what it will

Where a session carries a token it sends its credential only where it must, so that the token alone is at work.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from lab.wire import Answer, DroppedError, Wire
from tests.faults.consistency.history import Operation, Recorder
from tests.faults.consistency.market import Credential, Market

TOKEN = "Consistency-Token"
# What a client does that is told to come again later; longer would only make the history thinner.
PAUSE_SECONDS = 0.05
# Requests on one connection, before another worker may get the next.
CONNECTION_LASTS = 7
# What each session does, by weight.
_WRITES = {"change_price": 3, "place_order": 3}
_READS = {"read_product": 5, "list_products": 2}
_ORDERS = {"read_order": 3, "list_orders": 2}


@dataclass(slots=True)
class Carried:
    """A token and the operation whose answer brought it. Handed on by being shared, so both change in one step."""

    latest: tuple[str, int] | None = None


class Session:
    """One client, in one thread. `carry` is one of those above; `credentials` has one for each store it acts in."""

    def __init__(
        self,
        name: str,
        address: str,
        recorder: Recorder,
        choice: Random,
        carry: str,
        credentials: Mapping[str, Credential],
        markets: list[Market],
        handed: Carried | None = None,
    ) -> None:
        self.name, self.carry, self.credentials, self.markets = name, carry, credentials, markets
        self.mine, self.handed = Carried(), handed
        self._wire = Wire(address, lasts=CONNECTION_LASTS)
        self._recorder, self._choice = recorder, choice
        self._keys = itertools.count()
        self._unsettled: dict[str, tuple[Market, dict[str, Any]]] = {}
        self._orders: dict[str, list[str]] = {market.store: [] for market in markets}
        writes = {} if not credentials else _WRITES
        if any(each.name.startswith("shopper") for each in credentials.values()):
            writes = {"place_order": 4}  # prices are the merchant's
        self._steps = _READS | writes | (_ORDERS if credentials else {})

    def run(self, done: threading.Event) -> None:
        """One step after the other, until it is done."""
        names, weights = list(self._steps), list(self._steps.values())
        while not done.is_set():
            step: Callable[[Market], Operation] = getattr(self, self._choice.choices(names, weights)[0])
            if step(self._choice.choice(self.markets)).in_doubt:
                done.wait(PAUSE_SECONDS)

    def settle(self) -> None:
        """Ask again for every order of which it was not told what became, as its client would."""
        for key, (market, items) in list(self._unsettled.items()):
            self._order(market, key, items)

    def close(self) -> None:
        self._wire.close()

    def change_price(self, market: Market) -> Operation:
        sent = {"product": self._choice.choice(market.products), "price": next(market.prices)}
        path = f"{market.path}/products/{sent['product']}"
        return self._do("change-price", market, sent, "PATCH", path, {"price": sent["price"]}, needs_key=True)

    def place_order(self, market: Market) -> Operation:
        """A new order; or, where one is in doubt, the same again."""
        for key, (its_market, items) in self._unsettled.items():
            if its_market is market:
                return self._order(market, key, items)
        products = self._choice.sample(market.products, self._choice.randint(1, 2))
        return self._order(
            market, f"{self.name}-{next(self._keys)}", {each: self._choice.randint(1, 3) for each in products}
        )

    def _order(self, market: Market, key: str, items: dict[str, Any]) -> Operation:
        self._unsettled[key] = (market, items)
        body = {"items": [{"product_id": each, "quantity": quantity} for each, quantity in items.items()]}
        sent = {"key": key, "items": items}
        placed = self._do("place-order", market, sent, "POST", f"{market.path}/orders", body, needs_key=True)
        if not placed.in_doubt and placed.problem != "request-in-progress":
            del self._unsettled[key]
        if placed.good:
            self._orders[market.store] += placed.orders
        return placed

    def read_product(self, market: Market) -> Operation:
        product = self._choice.choice(market.products)
        return self._do(
            "read-product", market, {"product": product}, "GET", f"{market.path}/products/{product}"
        )

    def list_products(self, market: Market) -> Operation:
        return self._do("list-products", market, {"limit": 100}, "GET", f"{market.path}/products?limit=100")

    def read_order(self, market: Market) -> Operation:
        """One of its own last orders; the list of all where it has none."""
        if not self._orders[market.store]:
            return self.list_orders(market)
        order = self._choice.choice(self._orders[market.store][-5:])
        path = f"{market.path}/orders/{order}"
        return self._do("read-order", market, {"order": order}, "GET", path, needs_key=True)

    def list_orders(self, market: Market) -> Operation:
        path = f"{market.path}/orders?limit=50"
        return self._do("list-orders", market, {"limit": 50}, "GET", path, needs_key=True)

    def _do(
        self,
        kind: str,
        market: Market,
        sent: Mapping[str, Any],
        method: str,
        path: str,
        body: Any = None,
        *,
        needs_key: bool = False,
    ) -> Operation:
        """One request, recorded."""
        headers, carried = self._carried()
        credential = self.credentials.get(market.store)
        if not needs_key and self.carry != "credential":
            credential = None
        if credential is not None:
            headers |= credential.header
        if kind == "place-order":
            headers["Idempotency-Key"] = sent["key"]
        number, started = self._recorder.begin()
        asked = Operation(
            number,
            self.name,
            kind,
            market.shard,
            market.store,
            started,
            started,
            carried,
            credential.name if credential else None,
            sent,
        )
        try:
            answer = self._wire.request(method, path, headers, body)
        except DroppedError as error:
            told = replace(asked, ended=self._recorder.now(), detail=str(error))
        else:
            told = replace(asked, ended=self._recorder.now(), **_told(kind, answer))
            self._keep(told)
        self._recorder.add(told)
        return told

    def _carried(self) -> tuple[dict[str, str], tuple[int, ...]]:
        """The headers that carry consistency, and the operations they are of."""
        as_header = {"header": self.mine, "handed": self.handed}.get(self.carry)
        as_cookie = self.mine if self.carry in ("cookie", "handed") else None
        headers, carried = {}, []
        for kept, name, form in ((as_header, TOKEN, "{}"), (as_cookie, "Cookie", TOKEN + "={}")):
            latest = kept.latest if kept is not None else None
            if latest is not None:
                headers[name] = form.format(latest[0])
                carried.append(latest[1])
        return headers, tuple(carried)

    def _keep(self, told: Operation) -> None:
        if told.token is not None and self.carry not in ("credential", "nothing"):
            self.mine.latest = told.token, told.number


def _told(kind: str, answer: Answer) -> dict[str, Any]:
    """What an answer says, as an operation's fields."""
    cookie = answer.headers.get("set-cookie", "")
    token = answer.headers.get(TOKEN.lower())
    if token is None and cookie.startswith(f"{TOKEN}="):
        token = cookie.partition(";")[0].partition("=")[2]
    told: dict[str, Any] = {
        "status": answer.status,
        "served_by": answer.headers.get("x-served-by"),
        "token": token,
    }
    if not answer.good:
        problem = answer.document
        kind_of_problem = problem["type"].rpartition("/")[2].rpartition("#")[2]
        return told | {"problem": kind_of_problem, "detail": problem["detail"]}
    document = answer.document
    things = document["data"] if kind.startswith("list") else [document]
    told["whole"] = not kind.startswith("list") or document["next_cursor"] is None
    if kind in ("change-price", "read-product", "list-products"):
        return told | {"products": {each["id"]: (each["version"], each["price"]) for each in things}}
    return told | {"orders": tuple(each["id"] for each in things)}


def make_sessions(address: str, recorder: Recorder, markets: list[Market], seed: int) -> list[Session]:
    """Of each store one for every way to carry consistency, and one that works in all stores."""
    sessions = []
    for market in markets:

        def one(
            kind: str, carry: str, credential: Credential | None, handed: Carried | None = None
        ) -> Session:
            name = f"{kind}-{market.shard}"  # noqa: B023 - called at once
            credentials = {market.store: credential} if credential else {}  # noqa: B023
            choice = Random(f"{seed}-{name}")
            return Session(name, address, recorder, choice, carry, credentials, [market], handed)  # noqa: B023

        header = one("header", "header", market.merchant)
        sessions += [
            header,
            one("cookie", "cookie", market.merchant),
            one("merchant", "credential", market.merchant),
            one("twin", "handed", market.twin, header.mine),
            one("reader", "handed", None, header.mine),
            one("shopper", "credential", market.shopper),
            one("anybody", "nothing", None),
        ]
    keys = {market.store: market.merchant for market in markets}
    choice = Random(f"{seed}-traveller")
    return [*sessions, Session("traveller", address, recorder, choice, "header", keys, markets)]
