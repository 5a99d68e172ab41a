"""A guest's cart joins the customer's on sign-in: whoever is in the way, whatever dies, nothing is doubled or lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest
import requests

from operations.credentials import Credentials
from tests.cluster_fixtures import Databases, Service, serving
from tests.held_app import HELD_APP, hold
from tests.shop import PASSWORD, Caller, Json, Shop, Shopper, eventually, ok, refused
from tests.valkey_server import ValkeyServer, running_valkey


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


@pytest.fixture(scope="module")
def held(databases: Databases, server: ValkeyServer) -> Iterator[Service]:
    """A service that a test can hold between two steps, with a server for its carts that a test can freeze."""
    with serving(
        databases.settings,
        application=HELD_APP,
        redis_url=server.url,
        scrypt_log2_n=8,
        session_ttl_seconds=9000,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def shop(held: Service) -> Shop:
    return Shop.create(held)


@pytest.fixture(scope="module")
def products(shop: Shop) -> list[Json]:
    return [shop.product() for _ in range(3)]


@pytest.fixture
def customer(shop: Shop) -> Shopper:
    return shop.customer()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as running:
        yield running


def sign_in(
    shop: Shop, customer: Shopper, guest: Caller | None, password: str = PASSWORD
) -> requests.Response:
    """The answer to a customer's sign-in, on a connection of its own, with this one's credential sent along."""
    asked = shop.caller(guest.token if guest is not None else None)
    return asked.post("/sessions", json={"email": customer.email, "password": password})


def cart(shopper: Caller) -> dict[str, int]:
    return {line["product_id"]: line["quantity"] for line in ok(shopper.get("/cart"))["items"]}


def filled(shop: Shop, shopper: Shopper, *quantities: tuple[Json, int]) -> Shopper:
    for product, quantity in quantities:
        shop.put_in_cart(shopper, product, quantity)
    return shopper


def killed(worker: int, request: Future[requests.Response], service: Service) -> None:
    """kill -9 of the worker that holds a request; the service is whole again afterwards."""
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(requests.ConnectionError):
        request.result()
    asked = [Caller(service) for _ in range(8)]
    eventually(lambda: all(caller.get("/readyz").status_code == 200 for caller in asked), 30)


def carts_are_back(shop: Shop) -> None:
    """Wait until every worker has found their server again."""
    guest = shop.guest()
    callers = [guest.afresh() for _ in range(8)]
    eventually(lambda: all(caller.get("/cart").status_code == 200 for caller in callers))


def test_a_guests_lines_move_into_the_customers_cart(
    shop: Shop, products: list[Json], customer: Shopper
) -> None:
    mug, jug, pan = (product["id"] for product in products)
    filled(shop, customer, (products[0], 2), (products[1], 1))
    guest = filled(shop, shop.guest(), (products[1], 3), (products[2], 4))
    session = ok(sign_in(shop, customer, guest), 201)
    assert session["customer_id"] == customer.customer_id
    for mine in (customer, shop.caller(session["token"])):
        assert cart(mine) == {mug: 2, jug: 4, pan: 4}
    assert cart(guest) == {}


def test_a_second_sign_in_brings_what_was_put_in_since(
    shop: Shop, products: list[Json], customer: Shopper
) -> None:
    """Also the same product again."""
    mug = products[0]["id"]
    guest = filled(shop, shop.guest(), (products[0], 2))
    for _ in range(2):
        ok(sign_in(shop, customer, guest), 201)
    assert cart(customer) == {mug: 2}
    filled(shop, guest, (products[0], 2))
    ok(sign_in(shop, customer, guest), 201)
    assert (cart(customer), cart(guest)) == ({mug: 4}, {})


def test_a_quantity_is_10000_at_most_together(shop: Shop, products: list[Json], customer: Shopper) -> None:
    filled(shop, customer, (products[0], 9_000))
    guest = filled(shop, shop.guest(), (products[0], 1_001))
    ok(sign_in(shop, customer, guest), 201)
    assert (cart(customer), cart(guest)) == ({products[0]["id"]: 10_000}, {})


def test_a_line_beyond_100_stays_in_the_guests_cart(shop: Shop, customer: Shopper) -> None:
    many = [shop.product() for _ in range(102)]
    filled(shop, customer, *((product, 1) for product in many[:99]))
    guest = filled(shop, shop.guest(), *((product, 2) for product in many[98:]))
    ok(sign_in(shop, customer, guest), 201)
    joined, left = cart(customer), cart(guest)
    assert (len(joined), joined[many[98]["id"]], len(left)) == (100, 3, 2)
    assert joined.keys() | left.keys() == {product["id"] for product in many}
    assert not joined.keys() & left.keys()
    ok(sign_in(shop, customer, guest), 201)
    assert (cart(customer), cart(guest)) == (joined, left)
    # Where there is room again, it moves.
    assert customer.delete("/cart").status_code == 204
    ok(sign_in(shop, customer, guest), 201)
    assert (cart(customer), cart(guest)) == (left, {})


def test_a_wrong_password_joins_nothing(shop: Shop, products: list[Json], customer: Shopper) -> None:
    guest = filled(shop, shop.guest(), (products[0], 2))
    refused(sign_in(shop, customer, guest, PASSWORD + "x"), 401)
    assert (cart(customer), cart(guest)) == ({}, {products[0]["id"]: 2})


def test_another_customers_cart_is_not_joined(shop: Shop, products: list[Json], customer: Shopper) -> None:
    other = filled(shop, shop.customer(), (products[0], 2))
    ok(sign_in(shop, customer, other), 201)
    assert (cart(customer), cart(other)) == ({}, {products[0]["id"]: 2})


def test_nor_the_customers_own_twice(shop: Shop, products: list[Json], customer: Shopper) -> None:
    filled(shop, customer, (products[0], 2))
    ok(sign_in(shop, customer, customer), 201)
    assert cart(customer) == {products[0]["id"]: 2}


def test_no_other_credential_makes_a_difference(
    shop: Shop, held: Service, products: list[Json], customer: Shopper
) -> None:
    settings = held.settings
    elsewhere = Shop.create(held)
    foreign = filled(elsewhere, elsewhere.guest(), (elsewhere.product(), 2))
    expired = Credentials(settings.secret_key, "", -1).new_session(UUID(shop.id), UUID(int=7), None)[0]
    forged = str(shop.guest().token)[:-2] + "AA"
    for token in (foreign.token, expired, forged, "st_", "x", shop.api_key, settings.operator_token):
        ok(sign_in(shop, customer, shop.caller(token)), 201)
    assert (cart(customer), len(cart(foreign))) == ({}, 1)


def test_a_guest_who_was_signed_out_joins_nothing(
    shop: Shop, server: ValkeyServer, products: list[Json], customer: Shopper
) -> None:
    """Also where the carts' server could not be told, and has the cart still."""
    others = set(server.admin.keys("cart:*"))
    guest = filled(shop, shop.guest(), (products[0], 2))
    (ours,) = set(server.admin.keys("cart:*")) - others
    server.admin.save()
    server.kill()
    assert guest.delete("/sessions/current").status_code == 204
    server.restart(with_snapshot=True)
    carts_are_back(shop)
    # A minute later:
    server.admin.delete(*server.admin.keys(f"session:*{shop.id}*"))
    ok(sign_in(shop, customer, guest), 201)
    assert cart(customer) == {}
    assert server.admin.hgetall(ours) == {products[0]["id"].encode(): b"2"}


def test_while_carts_are_away_sign_in_goes_on_and_the_guests_cart_stays(
    shop: Shop, server: ValkeyServer, products: list[Json], customer: Shopper
) -> None:
    guest = filled(shop, shop.guest(), (products[0], 2))
    with server.frozen():
        ok(sign_in(shop, customer, guest), 201)
    carts_are_back(shop)
    assert (cart(customer), cart(guest)) == ({}, {products[0]["id"]: 2})


@pytest.mark.parametrize("moment", ["join", "leave"])
def test_of_two_sign_ins_at_once_one_brings_the_lines(
    shop: Shop,
    held: Service,
    threads: ThreadPoolExecutor,
    products: list[Json],
    customer: Shopper,
    moment: str,
) -> None:
    """The first has read the guest's cart, or joined it, when the second comes and goes; meanwhile a line is put in."""
    mug, jug, _ = (product["id"] for product in products)
    guest = filled(shop, shop.guest(), (products[0], 2))
    with hold(held, moment) as held_by:
        first = threads.submit(sign_in, shop, customer, guest)
        held_by()
        ok(sign_in(shop, customer, guest), 201)
        assert (cart(customer), cart(guest)) == ({mug: 2}, {})
        filled(shop, guest, (products[0], 2), (products[1], 1))
    ok(first.result(), 201)
    assert (cart(customer), cart(guest)) == ({mug: 4, jug: 1}, {})


def test_who_is_held_until_the_join_is_forgotten_joins_nothing(
    shop: Shop,
    held: Service,
    server: ValkeyServer,
    threads: ThreadPoolExecutor,
    products: list[Json],
    customer: Shopper,
) -> None:
    """What was joined is remembered for twice as long as the mark lives without which nobody joins."""
    guest = filled(shop, shop.guest(), (products[0], 2))
    with hold(held, "join") as held_by:
        first = threads.submit(sign_in, shop, customer, guest)
        held_by()
        ok(sign_in(shop, customer, guest), 201)
        marks = server.admin.keys(f"session:*{shop.id}:{customer.customer_id}*")
        records = server.admin.keys(f"cart-joined:*{shop.id}:{customer.customer_id}*")
        longest = max(server.admin.ttl(mark) for mark in marks)
        assert all(server.admin.ttl(record) > 1.5 * longest for record in records)
        server.admin.delete(*marks, *records)
    ok(first.result(), 201)
    assert (cart(customer), cart(guest)) == ({products[0]["id"]: 2}, {})


def test_a_guests_cart_goes_to_one_customer_of_two_at_once(
    shop: Shop, held: Service, threads: ThreadPoolExecutor, products: list[Json], customer: Shopper
) -> None:
    guest, other = filled(shop, shop.guest(), (products[0], 2)), shop.customer()
    with hold(held, "join") as held_by:
        first = threads.submit(sign_in, shop, customer, guest)
        held_by()
        ok(sign_in(shop, other, guest), 201)
    ok(first.result(), 201)
    assert (cart(customer), cart(other), cart(guest)) == ({products[0]["id"]: 2}, {}, {})


def test_a_line_put_in_during_the_join_is_not_lost(
    shop: Shop, held: Service, threads: ThreadPoolExecutor, products: list[Json], customer: Shopper
) -> None:
    mug, jug, _ = (product["id"] for product in products)
    guest = filled(shop, shop.guest(), (products[0], 2))
    with hold(held, "leave") as held_by:
        signing_in = threads.submit(sign_in, shop, customer, guest)
        held_by()
        filled(shop, guest, (products[0], 5), (products[1], 1))
    ok(signing_in.result(), 201)
    assert (cart(customer), cart(guest)) == ({mug: 5, jug: 1}, {})


@pytest.mark.parametrize("moment", ["join", "leave"])
@pytest.mark.parametrize("put_since", [False, True], ids=["as it was", "put in since"])
def test_after_a_worker_died_the_next_sign_in_goes_on(
    shop: Shop,
    held: Service,
    threads: ThreadPoolExecutor,
    products: list[Json],
    customer: Shopper,
    moment: str,
    *,
    put_since: bool,
) -> None:
    mug, jug, _ = (product["id"] for product in products)
    guest = filled(shop, shop.guest(), (products[0], 2))
    with hold(held, moment) as held_by:
        signing_in = threads.submit(sign_in, shop, customer, guest)
        killed(held_by(), signing_in, held)
    if put_since:
        filled(shop, guest, (products[0], 5), (products[1], 1))
    # Whoever else comes with the guest's session, the lines are promised.
    other = shop.customer()
    ok(sign_in(shop, other, guest), 201)
    assert cart(other) == {}
    ok(sign_in(shop, customer, guest), 201)
    assert (cart(customer), cart(guest)) == ({mug: 5, jug: 1} if put_since else {mug: 2}, {})


def test_what_a_guest_has_ordered_is_not_brought_along(
    shop: Shop, held: Service, threads: ThreadPoolExecutor, products: list[Json], customer: Shopper
) -> None:
    """The worker died between the order and the emptying of its cart."""
    guest = filled(shop, shop.guest(), (products[0], 2))
    with hold(held, "clear") as held_by:
        ordering = threads.submit(shop.place_order, guest.afresh())
        killed(held_by(), ordering, held)
    assert cart(guest) == {products[0]["id"]: 2}
    ok(sign_in(shop, customer, guest), 201)
    assert (cart(customer), cart(guest)) == ({}, {})
