"""Searching products: every word of `q` stands in title or description, in any case (contract section 2)."""

from __future__ import annotations

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Shop, ok, refused

# Title, description; the key is what the tests call the product.
PRODUCTS = {
    "mug": ("Blue Mug", "Holds 30 cl of tea."),
    "bowl": ("Bowl, blue", ""),
    "percent": ("100% Wool", "Not 1000 things"),
    "thousand": ("1000 Wools", ""),
    "snake": ("snake_case", ""),
    "case": ("snakeXcase", ""),
    "slash": ("C:\\temp\\x", "back\\slash"),
    "quote": ('O\'Brien "quoted" $1 %(q)s :name', ""),
    "umlaut": ("Käse ÄPFEL Öl", "Crème brûlée"),
    "greek": ("Καλημέρα ΚΌΣΜΕ", "Привет МИР"),
    "deseret": ("\U00010400\U00010401", ""),
    "emoji": ("🍵 tea", "日本語のお茶"),
    "null": ("null", "undefined true"),
    "long": ("x" * 200, "start " + "word " * 1900 + "finish"),
    "lines": ("first", "second\nthird\tfourth"),
}


@pytest.fixture(scope="module")
def names(shop: Shop) -> dict[str, str]:
    """Each product's name by its id."""
    return {
        shop.product(title=title, description=description)["id"]: name
        for name, (title, description) in PRODUCTS.items()
    }


def found(shop: Shop, names: dict[str, str], q: str) -> set[str]:
    return {names[product["id"]] for page in shop.anyone.pages("/products", q=q, limit=3) for product in page}


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("blue", {"mug", "bowl"}),
        ("BLUE", {"mug", "bowl"}),
        ("blue mug", {"mug"}),
        ("mug blue", {"mug"}),
        ("  mug \t blue ", {"mug"}),
        ("mug tea", {"mug"}),
        ("mug bowl", set()),
        ("ea", {"mug", "emoji"}),
        ("b", {"mug", "bowl", "slash", "quote", "umlaut"}),
        ("30 tea", {"mug"}),
        ("mugh", set()),
        ("%", {"percent", "quote"}),
        ("100%", {"percent"}),
        ("0% wool", {"percent"}),
        ("_", {"snake"}),
        ("e_c", {"snake"}),
        ("snake_case", {"snake"}),
        ("exc", {"case"}),
        ("\\", {"slash"}),
        ("\\temp\\", {"slash"}),
        ("\\%", set()),
        ("%%", set()),
        ("temp\\\\", set()),
        ("o'brien", {"quote"}),
        ('"quoted"', {"quote"}),
        ("$1 %(q)s :name", {"quote"}),
        ("käse", {"umlaut"}),
        ("KÄSE äpfel öL", {"umlaut"}),
        ("CRÈME BRÛLÉE", {"umlaut"}),
        ("κόσμε", {"greek"}),
        ("ΚΑΛΗΜΈΡΑ", {"greek"}),
        ("ПРИВЕТ мир", {"greek"}),
        ("\U00010428\U00010429", {"deseret"}),
        ("🍵", {"emoji"}),
        ("お茶 TEA", {"emoji"}),
        ("null", {"null"}),
        ("NULL undefined", {"null"}),
        ("true", {"null"}),
        ("start finish xxx", {"long"}),
        ("x" * 200, {"long"}),
        ("word " * 30, {"long"}),
        (" ".join("wordstarfinish"[:n] for n in (1, 2, 3, 4)), {"long"}),
        ("first second third fourth", {"lines"}),
        ("first\nthird", {"lines"}),
        ("firstsecond", set()),
        ("first%second", set()),
        ("nothing like it", set()),
    ],
)
def test_a_search_finds_what_holds_every_word(
    shop: Shop, names: dict[str, str], q: str, expected: set[str]
) -> None:
    assert found(shop, names, q) == expected


@pytest.mark.parametrize("q", ["", " ", "\t \n", "\u3000"])
def test_a_search_for_no_word_is_the_whole_list(shop: Shop, names: dict[str, str], q: str) -> None:
    assert found(shop, names, q) == set(PRODUCTS)


def test_a_search_cannot_hold_u0000(shop: Shop) -> None:
    problem = refused(shop.anyone.get("/products", params={"q": "a\0b"}), 400)
    assert [error["path"] for error in problem["errors"]] == ["/q"]


def test_a_search_that_is_not_utf_8_is_answered(shop: Shop, names: dict[str, str]) -> None:
    assert ok(shop.anyone.get("/products?q=%ED%A0%80%FF")) == {"data": [], "next_cursor": None}


def test_found_products_come_newest_first_and_page_by_page(market: Service) -> None:
    shop = Shop.create(market)
    wanted = [shop.product(title=f"{'Red' if number % 2 else 'Green'} mug")["id"] for number in range(10)][
        1::2
    ]
    pages = shop.anyone.pages("/products", q="red MUG", limit=2)
    assert [[product["id"] for product in page] for page in pages] == [
        [wanted[4], wanted[3]],
        [wanted[2], wanted[1]],
        [wanted[0]],
    ]


def test_a_search_sees_changed_text(market: Service) -> None:
    shop = Shop.create(market)
    product = shop.product(title="Old", description="words")
    shop.merchant.patch(f"/products/{product['id']}", json={"title": "NEW"})
    assert ok(shop.anyone.get("/products", params={"q": "old"}))["data"] == []
    assert [p["id"] for p in ok(shop.anyone.get("/products", params={"q": "new words"}))["data"]] == [
        product["id"]
    ]


def test_a_search_stays_in_its_store(shop: Shop, names: dict[str, str], market: Service) -> None:
    assert ok(Shop.create(market).anyone.get("/products", params={"q": "blue"}))["data"] == []
