"""That everybody can use the page: with a keyboard, on a phone, in dark and light, with a screen reader."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import OpenPage
from tests.cluster_fixtures import Service
from tests.shop import Shop

SEVERE = {"serious", "critical"}
FOCUSABLE = "a[href], button, input, select, [tabindex='0']"
WIDTHS = (320, 390, 768, 1440)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_axe_finds_nothing_serious(open_page: OpenPage, service: Service, scheme: str, width: int) -> None:
    room = open_page(width=width, scheme=scheme)
    shop = Shop.create(service)

    def severe() -> list[str]:
        found = Axe().run(room.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in SEVERE]

    assert severe() == []
    room.sign_in(service.operator_token)
    room.page.fill("#store-id", shop.id)
    room.page.keyboard.press("Enter")
    room.page.wait_for_selector("#route-pin:visible")
    assert severe() == []
    room.page.click("#route-pin")
    assert severe() == []


def test_tab_reaches_everything_and_shows_where_it_is(open_page: OpenPage, service: Service) -> None:
    page = (room := open_page()).page
    room.sign_in(service.operator_token)
    room.until(lambda: page.locator("[role=switch]").count() == 5, "the flags are shown")
    page.evaluate("document.activeElement.blur()")
    page.evaluate(
        """(all) => document.querySelectorAll(all).forEach((node, index) => {
             if (node.checkVisibility()) node.dataset.reach = String(index);
           })""",
        FOCUSABLE,
    )
    expected = set(
        page.evaluate("[...document.querySelectorAll('[data-reach]')].map((n) => n.dataset.reach)")
    )
    reached: set[str] = set()
    for _ in range(len(expected) + 5):
        page.keyboard.press("Tab")
        at, outline = page.evaluate(
            """() => [document.activeElement.dataset.reach ?? null,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        if at is None:
            continue  # once round, by way of the browser's own bars
        assert outline != "none", page.evaluate("document.activeElement.outerHTML")
        reached.add(at)
    assert reached == expected


def test_the_first_tab_skips_to_what_is_going_on(open_page: OpenPage) -> None:
    page = open_page().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_no_width_scrolls_sideways(open_page: OpenPage) -> None:
    page = open_page(width=WIDTHS[0]).page
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
