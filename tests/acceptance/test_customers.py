"""Customers: contract section 2."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from tests.cluster_fixtures import Service
from tests.shop import PASSWORD, Json, Shop, ok, refused


def sign_up(**fields: Any) -> Json:
    return {"email": "ada@example.com", "name": "Ada", "password": PASSWORD} | fields


def email_of(length: int) -> str:
    return "a" * (length - len("@example.com")) + "@example.com"


@pytest.fixture
def fresh(market: Service) -> Shop:
    """A store without customers."""
    return Shop.create(market)


def test_anyone_signs_up_and_no_answer_holds_the_password(fresh: Shop) -> None:
    answer = fresh.anyone.post("/customers", json=sign_up(name="Ada Λόβλεϊς"))
    customer = ok(answer, 201)
    assert customer.keys() == {"id", "email", "name", "created_at"}
    assert (customer["email"], customer["name"]) == ("ada@example.com", "Ada Λόβλεϊς")
    assert UUID(customer["id"]).version == 7
    listed = fresh.merchant.get("/customers")
    assert ok(listed) == {"data": [customer], "next_cursor": None}
    for text in (answer.text, listed.text):
        assert PASSWORD not in text
        assert "scrypt" not in text


def test_the_email_is_kept_as_it_was_written(fresh: Shop) -> None:
    assert ok(fresh.anyone.post("/customers", json=sign_up(email="Ada@Example.COM")), 201)["email"] == (
        "Ada@Example.COM"
    )


@pytest.mark.parametrize("again", ["ada@example.com", "ADA@Example.com"])
def test_a_taken_email_is_refused_in_any_case(fresh: Shop, again: str) -> None:
    ok(fresh.anyone.post("/customers", json=sign_up()), 201)
    refused(fresh.anyone.post("/customers", json=sign_up(email=again, name="Eve")), 409, "email-taken")
    assert [customer["name"] for customer in ok(fresh.merchant.get("/customers"))["data"]] == ["Ada"]


def test_of_many_who_sign_up_with_one_email_at_once_one_gets_it(fresh: Shop) -> None:
    callers = [fresh.anyone.afresh() for _ in range(8)]
    with ThreadPoolExecutor(len(callers)) as threads:
        answers = list(threads.map(lambda caller: caller.post("/customers", json=sign_up()), callers))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert len(ok(fresh.merchant.get("/customers"))["data"]) == 1


def test_an_email_is_free_in_every_other_store(fresh: Shop, market: Service) -> None:
    for shop in (fresh, Shop.create(market)):
        ok(shop.anyone.post("/customers", json=sign_up()), 201)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", email_of(254)),
        ("email", "ä@exämple.de"),
        ("email", "o'brien+tag@sub.example.co.uk"),
        ("name", "x"),
        ("name", "𝔘" * 200),
        ("password", "12345678"),
        ("password", "𝔘" * 8),
        ("password", "x" * 1000),
        ("password", "a\0bcdefgh"),
        ("password", "  spaces  "),
    ],
    ids=lambda case: str(case)[:20].replace("\0", "0"),
)
def test_a_value_in_range_is_taken_and_signs_in(fresh: Shop, field: str, value: str) -> None:
    body = sign_up(**{field: value})
    customer = ok(fresh.anyone.post("/customers", json=body), 201)
    assert field == "password" or customer[field] == value
    signed_in = fresh.sign_in(body["email"], password=body["password"])
    assert signed_in.customer_id == customer["id"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", email_of(255)),
        ("email", ""),
        ("email", "ada"),
        ("email", "@example.com"),
        ("email", "ada@"),
        ("email", "a da@example.com"),
        ("email", "ada@example.com\n"),
        ("email", "ada@exa\0mple.com"),
        ("email", 7),
        ("email", None),
        ("name", ""),
        ("name", "x" * 201),
        ("name", "a\0b"),
        ("name", None),
        ("password", "1234567"),
        ("password", "x" * 1001),
        ("password", 12345678),
        ("password", None),
        ("phone", "+49"),
    ],
    ids=lambda case: str(case)[:20].replace("\0", "0"),
)
def test_any_other_value_is_refused_by_its_field(shop: Shop, field: str, value: Any) -> None:
    problem = refused(shop.anyone.post("/customers", json=sign_up(**{field: value})), 400)
    assert [error["path"] for error in problem["errors"]] == [f"/{field}"]
    assert PASSWORD not in str(problem)


@pytest.mark.parametrize("field", ["email", "name", "password"])
def test_no_field_may_be_missing(shop: Shop, field: str) -> None:
    body = sign_up()
    del body[field]
    problem = refused(shop.anyone.post("/customers", json=body), 400)
    assert [error["path"] for error in problem["errors"]] == [f"/{field}"]


def test_nobody_signs_up_with_a_store_that_is_not_there(shop: Shop) -> None:
    nowhere = shop.caller(None)
    for store in ("01900000-0000-7000-8000-000000000000", "not-an-id"):
        nowhere.path = f"/v1/stores/{store}"
        refused(nowhere.post("/customers", json=sign_up()), 404)


def test_customers_are_listed_newest_first(fresh: Shop) -> None:
    made = [
        ok(fresh.anyone.post("/customers", json=sign_up(email=f"{number}@example.com")), 201)
        for number in range(5)
    ]
    assert fresh.merchant.pages("/customers", limit=2) == [made[4:2:-1], made[2:0:-1], made[:1]]
