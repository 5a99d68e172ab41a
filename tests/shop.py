"""A store to test with, over HTTP: its merchant, its shoppers, its products.

    shop = Shop.create(service)
    mug = shop.product(stock=3)
    ada = shop.customer()
    order = shop.place_order(ada, [(mug, 2)]).json()
    shop.merchant.post(f"/orders/{order['id']}/pay")

Whoever asks is a `Caller`: it has one credential, its own connection and cookies, and takes paths below its store.
Every answer is held against `/openapi.json` (`tests/documented.py`), whatever else a test looks at.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.cluster_fixtures import Service
from tests.documented import DocumentedSession

Json = dict[str, Any]
Lines = Sequence[tuple[Json, int]]  # products, and how many of each

PASSWORD = "correct horse battery"
# That no answer holds, whatever went wrong: a stack trace, an SQL text, an address.
_LEAKS = ("Traceback", 'File "', "psycopg", "SELECT ", "INSERT ", "UPDATE ", "127.0.0.1", "localhost")


class Caller:
    """Somebody who asks, with one credential or none. `path` is what all paths given are below."""

    def __init__(self, service: Service, path: str = "", token: str | None = None) -> None:
        self.service, self.path, self.token = service, path, token
        self.http = DocumentedSession(service.base_url)
        self.http.trust_env = False  # no proxy, and no .netrc in the place of the credential
        if token is not None:
            self.http.headers["Authorization"] = f"Bearer {token}"
        self.get = partial(self.request, "GET")
        self.post = partial(self.request, "POST")
        self.put = partial(self.request, "PUT")
        self.patch = partial(self.request, "PATCH")
        self.delete = partial(self.request, "DELETE")

    def request(self, method: str, path: str = "", **options: Any) -> requests.Response:
        """One answer, checked against the document. `options` are those of `requests`: `json`, `headers`, ..."""
        return self.http.request(method, self.path + path, **options)

    def afresh(self) -> Caller:
        """The same one on a connection of its own, which any worker may take, and without cookies."""
        return type(self)(self.service, self.path, self.token)

    def pages(self, path: str, **parameters: Any) -> list[list[Json]]:
        """Every page of a list, each by the cursor of the one before."""
        found: list[list[Json]] = []
        cursor = None
        while not found or cursor is not None:
            given = parameters if cursor is None else parameters | {"cursor": cursor}
            page = ok(self.get(path, params=given))
            found.append(page["data"])
            cursor = page["next_cursor"]
        return found


def operator(service: Service) -> Caller:
    """The operator. Paths are whole: `/v1/admin/flags`."""
    return Caller(service, token=service.operator_token)


class Shopper(Caller):
    """A session in a shop, a guest's or a customer's."""

    email: str | None = None
    customer_id: str | None = None


@dataclass(frozen=True, slots=True)
class Shop:
    """One store. `merchant` and `anyone` take paths below it, such as `/products`."""

    service: Service
    store: Json
    api_key: str
    api_key_id: str
    merchant: Caller
    anyone: Caller

    @classmethod
    def create(cls, service: Service, *, name: str = "Corner Shop", currency: str = "EUR") -> Shop:
        made = ok(operator(service).post("/v1/stores", json={"name": name, "currency": currency}), 201)
        api_key, api_key_id = made.pop("api_key"), made.pop("api_key_id")
        path = f"/v1/stores/{made['id']}"
        merchant, anyone = Caller(service, path, api_key), Caller(service, path)
        return cls(service, made, api_key, api_key_id, merchant, anyone)

    @classmethod
    def on_each_shard(cls, service: Service) -> dict[str, Shop]:
        """A store on every shard, by the shard's name."""
        asked = operator(service)
        wanted = {shard["name"] for shard in ok(asked.get("/v1/admin/topology"))["shards"]}
        found: dict[str, Shop] = {}
        while found.keys() != wanted:
            shop = cls.create(service)
            found.setdefault(ok(asked.get(f"/v1/admin/stores/{shop.id}/route"))["shard"], shop)
        return found

    @property
    def id(self) -> str:
        return str(self.store["id"])

    @property
    def path(self) -> str:
        return f"/v1/stores/{self.id}"

    def caller(self, token: str | None) -> Caller:
        """Somebody with this credential."""
        return Caller(self.service, self.path, token)

    def guest(self) -> Shopper:
        return self._shopper({})

    def customer(self, email: str | None = None, *, password: str = PASSWORD) -> Shopper:
        """Somebody who has just signed up and in."""
        email = email or f"{secrets.token_hex(4)}@example.com"
        body = {"email": email, "name": "Ada", "password": password}
        ok(self.anyone.post("/customers", json=body), 201)
        return self.sign_in(email, password=password)

    def sign_in(self, email: str, *, password: str = PASSWORD) -> Shopper:
        shopper = self._shopper({"email": email, "password": password})
        shopper.email = email
        return shopper

    def _shopper(self, body: Json) -> Shopper:
        session = ok(self.anyone.post("/sessions", json=body), 201)
        shopper = Shopper(self.service, self.path, session["token"])
        shopper.customer_id = session["customer_id"]
        return shopper

    def product(self, **fields: Any) -> Json:
        """A new product; what is not given is an ordinary one's."""
        return ok(self.merchant.post("/products", json=new_product(**fields)), 201)

    def stock(self, product: Json) -> int:
        """How many units there are now."""
        return int(ok(self.anyone.get(f"/products/{product['id']}"))["stock"])

    def put_in_cart(self, shopper: Caller, product: Json, quantity: int = 1) -> Json:
        return ok(shopper.put(f"/cart/items/{product['id']}", json={"quantity": quantity}))

    def place_order(
        self, buyer: Caller, items: Lines | None = None, *, key: str | None = None
    ) -> requests.Response:
        """The answer to an order of these lines, or of the cart; with a key of its own where none is given."""
        lines = [{"product_id": product["id"], "quantity": quantity} for product, quantity in items or ()]
        return buyer.post(
            "/orders",
            json={} if items is None else {"items": lines},
            headers={"Idempotency-Key": key or secrets.token_hex(8)},
        )


def new_product(**fields: Any) -> Json:
    """A product's body; what is not given is an ordinary one's."""
    return {"title": "Blue Mug", "price": 1250, "stock": 40} | fields


def ok(answer: requests.Response, status: int = 200) -> Json:
    """The document of an answer that has to have this status."""
    assert answer.status_code == status, f"{answer.status_code}, not {status}: {answer.text[:1000]}"
    document: Json = answer.json()
    return document


def refused(answer: requests.Response, status: int, kind: str | None = None) -> Json:
    """The problem of an answer that has to be refused so: RFC 9457, and nothing in it that is nobody's business.

    `kind` is the last part of its `type`.
    """
    assert answer.status_code == status, f"{answer.status_code}, not {status}: {answer.text[:1000]}"
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: Json = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= problem.keys()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    for leak in _LEAKS:
        assert leak not in answer.text
    if kind is not None:
        assert problem["type"].rpartition("/")[2].rpartition("#")[2] == kind
    assert ("Retry-After" in answer.headers) <= (status in (409, 429, 503))
    return problem


def at_once(caller: Caller, path: str, count: int) -> list[int]:
    """The statuses of so many GETs, each on its own connection, that reach the service in one moment."""
    address = urlsplit(caller.service.base_url)
    request = (
        f"GET {caller.path}{path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        f"Authorization: Bearer {caller.token}\r\n\r\n"
    ).encode()
    with ExitStack() as opened:
        connections = [
            opened.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            for _ in range(count)
        ]
        for part in (request[:-1], request[-1:]):  # all but complete first, so that no worker begins early
            for connection in connections:
                connection.sendall(part)
        return [int(connection.recv(4096).split(b" ", 2)[1]) for connection in connections]


def eventually(holds: Callable[[], bool], within_seconds: float = 10.0) -> None:
    """Wait until it holds. Raises `AssertionError` where it does not in time."""
    deadline = time.monotonic() + within_seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_seconds} s"
        time.sleep(0.02)
