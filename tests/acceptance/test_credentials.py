"""Who may do what, and what a refusal tells: contract section 2, "Credentials"."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.cluster_fixtures import Service
from tests.shop import PASSWORD, Caller, Json, Shop, new_product, ok, refused

NOT_THERE = "01900000-0000-7000-8000-000000000000"
NO_STORE = "01900000-0000-7000-8000-000000000001"

# Every endpoint that asks for a credential: who may use it, method, path below the store, body.
CLOSED: list[tuple[str, str, str, Json | None]] = [
    ("merchant", "POST", "/api-keys", {}),
    ("merchant", "DELETE", f"/api-keys/{NOT_THERE}", None),
    ("merchant", "POST", "/products", new_product()),
    ("merchant", "PATCH", f"/products/{NOT_THERE}", {"price": 1}),
    ("merchant", "DELETE", f"/products/{NOT_THERE}", None),
    ("merchant", "GET", "/customers", None),
    ("merchant", "POST", f"/orders/{NOT_THERE}/pay", {}),
    ("merchant", "POST", f"/orders/{NOT_THERE}/fulfil", {}),
    ("merchant", "POST", f"/orders/{NOT_THERE}/cancel", {}),
    ("session", "DELETE", "/sessions/current", None),
    ("session", "GET", "/cart", None),
    ("session", "PUT", f"/cart/items/{NOT_THERE}", {"quantity": 1}),
    ("session", "DELETE", "/cart", None),
    ("session merchant", "POST", "/orders", {"items": [{"product_id": NOT_THERE, "quantity": 1}]}),
    ("session merchant", "GET", "/orders", None),
    ("session merchant", "GET", f"/orders/{NOT_THERE}", None),
]
OPERATORS: list[tuple[str, str, Json | None]] = [
    ("POST", "/v1/stores", {"name": "x", "currency": "EUR"}),
    ("GET", "/v1/stores", None),
    ("GET", "/v1/admin/flags", None),
    ("PUT", "/v1/admin/flags/sharding", {"enabled": True}),
    ("GET", "/v1/admin/topology", None),
    ("GET", f"/v1/admin/stores/{NOT_THERE}/route", None),
]


@pytest.fixture(scope="module")
def elsewhere(market: Service) -> Shop:
    """Another store, whose credentials are good there."""
    return Shop.create(market)


@pytest.fixture(scope="module")
def tokens(shop: Shop, market: Service) -> dict[str, str]:
    """A good credential of every kind for the module's store."""
    guest = shop.guest().token
    assert guest is not None
    return {"merchant": shop.api_key, "session": guest, "operator": market.operator_token}


def ask(caller: Caller, method: str, path: str, body: Json | None, **headers: str) -> requests.Response:
    return caller.request(method, path, json=body, headers={"Idempotency-Key": "k", **headers})


@pytest.mark.parametrize(("who", "method", "path", "body"), CLOSED)
def test_only_those_who_may_get_in(
    shop: Shop, tokens: dict[str, str], who: str, method: str, path: str, body: Json | None
) -> None:
    for kind, token in tokens.items():
        if kind not in who.split():
            refused(ask(shop.caller(token), method, path, body), 403)
    for kind in who.split():
        # A session of its own: one of the endpoints ends it.
        caller = shop.guest() if kind == "session" else shop.caller(tokens[kind])
        assert ask(caller, method, path, body).status_code not in (401, 403)


@pytest.mark.parametrize(("who", "method", "path", "body"), CLOSED)
def test_without_a_credential_or_with_a_bad_one_nobody_gets_in(
    shop: Shop, tokens: dict[str, str], who: str, method: str, path: str, body: Json | None
) -> None:
    good = tokens[who.split(maxsplit=1)[0]]
    for given in bad_headers(good):
        answer = ask(shop.anyone.afresh(), method, path, body, **given)
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path", "body"), OPERATORS)
def test_only_the_operators_token_opens_what_is_the_operators(
    market: Service, tokens: dict[str, str], method: str, path: str, body: Json | None
) -> None:
    for kind in ("merchant", "session"):
        refused(ask(Caller(market, token=tokens[kind]), method, path, body), 403)
    for given in bad_headers(market.operator_token):
        refused(ask(Caller(market), method, path, body, **given), 401)


def bad_headers(good: str) -> list[dict[str, str]]:
    basic = base64.b64encode(f"operator:{good}".encode()).decode()
    values = [
        "",
        "Bearer",
        "Bearer ",
        good,
        f"Basic {basic}",
        f"Token {good}",
        f"Bearer{good}",
        f"Bearer {good[:-1]}",
        f"Bearer {good}x",
        f"Bearer {good[:-2]}{good[-1]}{good[-2]}" if good[-1] != good[-2] else "Bearer x",
        f"Bearer {good.swapcase()}",
        f"Bearer {good} {good}",
        "Bearer mk_",
        "Bearer st_AAAA",
        "Bearer ü".encode().decode("latin-1"),
        "Bearer " + "A" * 4000,
    ]
    return [{}, *({"Authorization": value} for value in values)]


def test_a_key_with_any_character_changed_is_unknown(shop: Shop, tokens: dict[str, str]) -> None:
    uses: dict[str, Callable[[Caller], requests.Response]] = {
        "merchant": lambda caller: caller.get("/customers"),
        "session": lambda caller: caller.get("/cart"),
    }
    for kind, use in uses.items():
        good = tokens[kind]
        caller = shop.caller(good)
        ok(use(caller))
        for place in range(len(good)):
            changed = good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :]
            caller.http.headers["Authorization"] = f"Bearer {changed}"
            refused(use(caller), 401)
        caller.http.headers["Authorization"] = f"bearer {good}"  # RFC 9110: the scheme's case does not matter
        ok(use(caller))


def told(answer: requests.Response, store: str) -> tuple[Any, ...]:
    """All that an answer says, but for the store that was asked for, the time and the request's id."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("Date", "X-Request-Id")}
    return answer.status_code, headers, answer.text.replace(store, "…")


@pytest.mark.parametrize(("who", "method", "path", "body"), CLOSED)
def test_a_credential_of_another_store_learns_nothing(
    shop: Shop, elsewhere: Shop, tokens: dict[str, str], who: str, method: str, path: str, body: Json | None
) -> None:
    for kind in who.split():
        stranger = elsewhere.caller(elsewhere.api_key if kind == "merchant" else elsewhere.guest().token)
        answers = []
        for store in (shop.id, NO_STORE):
            stranger.path = f"/v1/stores/{store}"
            answer = ask(stranger, method, path, body)
            refused(answer, 403)
            answers.append(told(answer, store))
        assert answers[0] == answers[1]


@pytest.mark.parametrize(("who", "method", "path", "body"), CLOSED)
def test_no_or_a_garbled_credential_learns_nothing(
    shop: Shop, tokens: dict[str, str], who: str, method: str, path: str, body: Json | None
) -> None:
    for headers in ({}, {"Authorization": f"Bearer {tokens[who.split(maxsplit=1)[0]]}x"}):
        answers = []
        for store in (shop.id, NO_STORE):
            nobody = shop.caller(None)
            nobody.path = f"/v1/stores/{store}"
            answers.append(told(ask(nobody, method, path, body, **headers), store))
        assert answers[0] == answers[1]


def test_a_stranger_learns_nothing_from_what_they_send(shop: Shop, elsewhere: Shop) -> None:
    """Neither the body nor the ids are looked at before the credential is."""
    stranger = elsewhere.caller(elsewhere.api_key)
    stranger.path = shop.path
    product = shop.product()
    for path in (f"/products/{product['id']}", f"/products/{NOT_THERE}"):
        refused(stranger.patch(path, json={"price": "x"}), 403)
        refused(stranger.patch(path, data="{"), 403)
        refused(stranger.delete(path), 403)
    order = ok(shop.place_order(shop.merchant, [(product, 1)]), 201)
    for order_id in (order["id"], NOT_THERE):
        refused(stranger.get(f"/orders/{order_id}"), 403)


def test_a_shopper_sees_no_order_of_another(shop: Shop) -> None:
    order = ok(shop.place_order(shop.guest(), [(shop.product(), 1)]), 201)
    for stranger in (shop.guest(), shop.customer()):
        seen = refused(stranger.get(f"/orders/{order['id']}"), 404)
        missing = refused(stranger.get(f"/orders/{NOT_THERE}"), 404)
        assert seen["detail"] == missing["detail"]
        assert ok(stranger.get("/orders"))["data"] == []


def test_what_anyone_may_read_anyone_reads_with_any_credential(
    shop: Shop, elsewhere: Shop, tokens: dict[str, str]
) -> None:
    product = shop.product()
    revoked = ok(shop.merchant.post("/api-keys"), 201)
    shop.merchant.delete(f"/api-keys/{revoked['id']}")
    signed_out = shop.guest()
    signed_out.delete("/sessions/current")
    others = [elsewhere.api_key, elsewhere.guest().token, revoked["api_key"], signed_out.token]
    for token in [*tokens.values(), *others]:
        reads_and_signs_up(shop.caller(token), product)
    for given in bad_headers(shop.api_key):
        caller = shop.anyone.afresh()
        caller.http.headers.update(given)
        reads_and_signs_up(caller, product)


def reads_and_signs_up(caller: Caller, product: Json) -> None:
    ok(caller.get())
    ok(caller.get("/products"))
    assert ok(caller.get(f"/products/{product['id']}")) == product
    ok(caller.post("/sessions", json={}), 201)
    refused(caller.post("/sessions", json={"email": "no@example.com", "password": PASSWORD}), 401)
    refused(caller.post("/customers", json={}), 400)


def test_no_answer_and_no_line_of_the_log_holds_a_credential(shop: Shop, market: Service) -> None:
    guest = shop.guest()
    shop.caller(guest.token).get("/cart")
    shop.merchant.get("/customers", params={"cursor": "x"})
    seen = shop.merchant.patch(f"/products/{shop.product()['id']}", json={}).headers["Consistency-Token"]
    shop.anyone.get(f"/products?q={seen}", headers={"Consistency-Token": seen})
    shop.sign_in(str(shop.customer().email))
    log = market.log.read_text()
    settings = market.settings
    passwords = (PASSWORD, settings.database_password, settings.admin_password)
    for secret in (shop.api_key, guest.token, seen, market.operator_token, settings.secret_key, *passwords):
        assert secret
        assert secret not in log
