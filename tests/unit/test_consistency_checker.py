"""The consistency checker, on small histories: it finds what was done to them, and nothing in good ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.consistency.checker import check
from tests.faults.consistency.history import Event, History, Look, Operation, Stock

KEY = "merchant-s"
MUG = Stock("mug", "s", "shard-0", price=100, units=50)
FROZEN = (Event("freeze", "shard-0", "shard-0-a", 0, 1),)


class Script:
    """Writes a history by hand: each operation takes a second, and begins when the one before has ended."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(self, kind: str, *, during: Operation | None = None, **fields: Any) -> Operation:
        """One more operation; `during` another one, which has not ended when it begins."""
        number = len(self.operations)
        started = during.started + 0.5 if during else float(2 * number)
        given: dict[str, Any] = {"session": "ada", "shard": "shard-0", "store": "s", "status": 200, **fields}
        ended = started + 1 if not during else during.ended + 1
        operation = Operation(number, kind=kind, started=started, ended=ended, **given)
        self.operations.append(operation)
        return operation

    def change(self, version: int, price: int, **fields: Any) -> Operation:
        products = {"mug": (version, price)} if fields.get("status", 200) == 200 else {}
        given: dict[str, Any] = {"products": products, "credential": KEY, **fields}
        return self.add("change-price", sent={"product": "mug", "price": price}, **given)

    def read(self, version: int, price: int, **fields: Any) -> Operation:
        return self.add("read-product", sent={"product": "mug"}, products={"mug": (version, price)}, **fields)

    def order(self, key: str, order: str | None, **fields: Any) -> Operation:
        given = {
            "sent": {"key": key, "items": {"mug": 2}},
            "credential": KEY,
            "status": 201 if order else 503,
        }
        return self.add("place-order", orders=(order,) if order else (), **given | fields)

    def orders(self, *found: str, **fields: Any) -> Operation:
        return self.add("list-orders", orders=found, **{"credential": KEY, **fields})

    def history(self, *looks: Look, events: tuple[Event, ...] = ()) -> History:
        return History({}, (MUG,), tuple(self.operations), events, looks)

    def reported(self, *tokens: str) -> History:
        return replace(self.history(look(1, 100)), made={"reported": tokens})

    def rules(self, *looks: Look, events: tuple[Event, ...] = ()) -> list[tuple[str, tuple[int, ...]]]:
        found = check(self.history(*looks, events=events))
        return [(finding.rule, finding.operations) for finding in found]


@pytest.fixture
def script() -> Script:
    return Script()


def look(version: int, price: int, stock: int = 50, *orders: str, keys: dict[str, str] | None = None) -> Look:
    """What a node holds in the end. Every order has two mugs, and a key that is named after it."""
    told = {f"key-{order}": order for order in orders} if keys is None else keys
    return Look(
        "shard-0-b", "s", {"mug": (version, price, stock)}, {each: {"mug": 2} for each in orders}, told
    )


def test_a_read_behind_a_write_whose_token_it_carries_is_stale(script: Script) -> None:
    wrote = script.change(2, 200)
    read = script.read(1, 100, carried=(wrote.number,))
    assert script.rules() == [("stale-read", (0, 1))]
    assert str(read) in str(check(script.history())[0])


def test_a_read_behind_a_write_of_its_credential_is_stale(script: Script) -> None:
    script.change(2, 200)
    script.read(1, 100, credential=KEY)
    assert script.rules() == [("stale-read", (0, 1))]


def test_a_token_that_was_handed_on_stands_for_all_that_its_bearers_wrote(script: Script) -> None:
    first = script.change(2, 200)
    second = script.read(2, 200, carried=(first.number,), session="bob")
    script.read(1, 100, carried=(second.number,), session="eve")
    assert script.rules() == [("stale-read", (0, 2))]


def test_of_two_tokens_the_one_that_stands_for_more_counts(script: Script) -> None:
    older, newer = script.change(2, 200), script.change(3, 300)
    script.read(2, 200, carried=(newer.number, older.number))
    assert script.rules() == [("stale-read", (1, 2))]


def test_who_carries_nothing_may_read_old_versions(script: Script) -> None:
    script.change(2, 200)
    script.read(2, 200)
    script.read(1, 100)
    script.read(1, 100, credential="merchant-of-another-store")
    assert script.rules() == []


def test_a_read_that_began_before_the_write_was_acknowledged_may_miss_it(script: Script) -> None:
    wrote = script.change(2, 200)
    script.read(1, 100, credential=KEY, during=wrote)
    assert script.rules() == []


def test_a_write_that_nobody_acknowledged_need_not_be_seen(script: Script) -> None:
    wrote = script.change(2, 200, status=503)
    script.read(1, 100, carried=(wrote.number,), credential=KEY)
    assert script.rules(events=FROZEN) == []


def test_a_later_version_stands_for_the_write(script: Script) -> None:
    wrote = script.change(2, 200)
    script.change(3, 300, session="bob", credential="merchant-other")
    script.read(3, 300, carried=(wrote.number,))
    assert script.rules() == []


def test_a_product_that_was_seen_does_not_vanish(script: Script) -> None:
    seen = script.read(1, 100)
    script.add("read-product", sent={"product": "mug"}, status=404)
    assert script.rules() == []
    script.add("read-product", sent={"product": "mug"}, status=404, carried=(seen.number,))
    assert script.rules() == [("went-back", (0, 2))]


def test_what_a_session_has_seen_does_not_go_back(script: Script) -> None:
    script.change(2, 200)
    seen = script.read(2, 200, session="bob")
    script.read(1, 100, session="bob", carried=(seen.number,))
    assert script.rules() == [("went-back", (1, 2))]


def test_what_was_only_seen_is_kept_with_the_token_or_for_the_credential(script: Script) -> None:
    wrote = script.change(2, 200)
    script.read(2, 200, carried=(wrote.number,), credential="shopper-a")
    script.read(1, 100, credential="shopper-a")
    assert script.rules() == []
    script.read(2, 200, credential="shopper-a")
    script.read(1, 100, credential="shopper-a")
    assert script.rules() == [("went-back", (3, 4))]


def test_an_order_that_was_listed_does_not_vanish(script: Script) -> None:
    script.order("key-1", "o1")
    seen = script.orders("o1", credential="merchant-twin")
    script.orders(credential="merchant-twin", carried=(seen.number,))
    assert script.rules() == [("went-back", (1, 2))]


def test_an_acknowledged_order_is_read_and_listed(script: Script) -> None:
    wrote = script.order("key-1", "o1")
    script.add("read-order", sent={"order": "o1"}, status=404, carried=(wrote.number,))
    script.orders("o0")
    assert script.rules() == [("stale-read", (0, 1)), ("stale-read", (0, 2))]


def test_a_page_need_not_have_the_orders_behind_its_end(script: Script) -> None:
    script.order("key-1", "o1")
    script.order("key-3", "o3")
    script.orders("o4", "o3", whole=False)
    assert script.rules() == []
    script.orders("o4", "o2", whole=False)
    assert script.rules() == [("stale-read", (1, 3))]


def test_a_shopper_sees_no_orders_of_others(script: Script) -> None:
    placed = script.order("key-1", "o1")
    script.orders(credential="shopper-bob", carried=(placed.number,))
    assert script.rules() == []


def test_one_version_has_one_price(script: Script) -> None:
    script.change(2, 200)
    script.change(2, 300, session="bob")
    assert script.rules() == [("forked", (0, 1))]


def test_a_price_that_nobody_sent_is_made_up(script: Script) -> None:
    read = script.read(2, 200)
    script.change(2, 200)
    assert read.ended < script.operations[1].started
    assert script.rules() == [("made-up", (0,))]


def test_a_price_in_doubt_may_be_seen(script: Script) -> None:
    wrote = script.change(2, 200, status=None)
    script.read(2, 200, during=wrote)
    assert script.rules(events=(Event("kill-worker", "", "1", 0, 1),)) == []


def test_an_acknowledged_price_is_there_in_the_end(script: Script) -> None:
    script.change(2, 200)
    assert script.rules(look(3, 300)) == []
    assert script.rules(look(2, 200)) == []
    assert script.rules(look(1, 100)) == [("lost-write", (0,))]
    assert script.rules(look(2, 300)) == [("lost-write", (0,))]


def test_what_was_seen_is_there_in_the_end(script: Script) -> None:
    script.change(2, 200, status=503)
    script.read(2, 200)
    assert script.rules(look(1, 100), events=FROZEN) == [("lost-write", (1,))]


def test_a_lost_write_that_was_reported_is_lost_but_nobody_was_told_that_an_old_answer_is_new(
    script: Script,
) -> None:
    wrote = script.change(2, 200, token="of-the-write")
    script.read(1, 100, carried=(wrote.number,))
    assert [each.rule for each in check(script.reported())] == ["stale-read", "lost-write"]
    assert [each.rule for each in check(script.reported("of-the-write"))] == ["lost-write"]


def test_an_acknowledged_order_is_there_in_the_end(script: Script) -> None:
    script.order("key-o1", "o1")
    assert script.rules(look(2, 100, 48, "o1")) == []
    assert script.rules(look(2, 100, 50)) == [("lost-write", (0,))]


def test_one_key_has_one_order(script: Script) -> None:
    script.order("key-o1", "o1")
    script.order("key-o1", "o2")
    found = script.rules(look(3, 100, 46, "o1", "o2", keys={"key-o1": "o1"}))
    assert found == [("duplicate", (0, 1)), ("duplicate", ())]


def test_a_key_that_tells_another_order_than_it_told_has_two(script: Script) -> None:
    script.order("key-o1", "o1")
    found = script.rules(look(3, 100, 46, "o1", "o2", keys={"key-o1": "o2"}))
    assert ("duplicate", (0,)) in found


def test_an_order_in_doubt_may_be_there_once(script: Script) -> None:
    script.order("key-o1", None)
    assert script.rules(look(1, 100), events=FROZEN) == []
    assert script.rules(look(2, 100, 48, "o1"), events=FROZEN) == []


def test_an_order_that_nobody_asked_for_is_one_too_many(script: Script) -> None:
    assert script.rules(look(2, 100, 48, "o1")) == [("duplicate", ())]


def test_units_sold_and_left_are_those_there_were(script: Script) -> None:
    script.order("key-o1", "o1")
    assert script.rules(look(2, 100, 46, "o1")) == [("stock", ())]


def test_a_shard_that_nothing_touched_answers(script: Script) -> None:
    script.read(1, 100, status=503)
    assert script.rules(events=(Event("freeze", "shard-1", "shard-1-a", 0, 1),)) == [("disturbed", (0,))]
    assert script.rules(events=FROZEN) == []


def test_a_connection_ends_early_only_where_a_worker_was_killed(script: Script) -> None:
    script.read(1, 100, status=None)
    assert script.rules(events=FROZEN) == [("wrong-answer", (0,))]
    assert script.rules(events=(Event("kill-worker", "", "1", 0, 1),)) == []


def test_no_fault_explains_a_server_error(script: Script) -> None:
    script.read(1, 100, status=500)
    assert script.rules(events=FROZEN) == [("wrong-answer", (0,))]


def test_a_history_is_the_same_after_it_was_kept(script: Script, tmp_path: Path) -> None:
    wrote = script.change(2, 200)
    script.read(1, 100, carried=(wrote.number,))
    script.order("key-o1", "o1")
    history = replace(script.history(look(2, 200), events=FROZEN), made={"seed": 7})
    history.save(tmp_path / "history.jsonl")
    assert History.load(tmp_path / "history.jsonl") == history


# A store on one server, which answers at once what it has: whatever is asked of it, nothing is wrong.
STEPS = st.lists(
    st.tuples(st.sampled_from(["change", "order", "read", "orders", "doubt"]), st.sampled_from("abc")),
    max_size=40,
)


def one_server(steps: list[tuple[str, str]]) -> tuple[Script, Look]:
    """A history that one server tells, and what it holds in the end."""
    script, version, price, orders = Script(), 1, 100, list[str]()
    last: dict[str, tuple[int, ...]] = {}
    for number, (step, session) in enumerate(steps):
        carried = last.get(session, ())
        given: dict[str, Any] = {"session": session, "carried": carried}
        if step in ("change", "doubt"):
            version, price = version + 1, 200 + number
            operation = script.change(version, price, status=200 if step == "change" else 503, **given)
        elif step == "order":
            orders.insert(0, f"o{number:03}")
            version += 1
            operation = script.order(f"key-{orders[0]}", orders[0], **given)
        elif step == "read":
            operation = script.read(version, price, credential=KEY, **given)
        else:
            operation = script.orders(*orders[:5], whole=len(orders) <= 5, **given)
        last[session] = (operation.number,)
    return script, look(version, price, 50 - 2 * len(orders), *orders)


@given(STEPS)
def test_nothing_is_wrong_with_what_one_server_tells(steps: list[tuple[str, str]]) -> None:
    script, last = one_server(steps)
    assert script.rules(last, events=FROZEN) == []


@given(STEPS, st.data())
def test_a_version_taken_back_from_any_read_is_found(
    steps: list[tuple[str, str]], data: st.DataObject
) -> None:
    script, _ = one_server([("change", "a"), *steps, ("read", "a")])
    chosen = data.draw(st.sampled_from([each for each in script.operations if each.kind == "read-product"]))
    # All sessions have one credential here, and a version rises: only the first version was there before.
    script.operations[chosen.number] = replace(chosen, products={"mug": (1, 100)})
    found = {rule for rule, _ in script.rules(events=FROZEN)}
    assert found == {"stale-read"}
