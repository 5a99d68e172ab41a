"""Requests that meet a store between two moves: it is never said not to be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

import sql
from errors import Unavailable
from operations.pages import Cursors
from operations.stores import list_stores
from routing.router import Router
from tests.cluster_fixtures import Databases
from tests.moving import Stage, stage
from tests.shard_servers import until

NEVER = 3600.0
MovesOn = Callable[..., None]
READ_STORE = sql.query("read_store")


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


@pytest.fixture
def asleep(databases: Databases) -> Iterator[Stage]:
    """A worker that looks for a newer map only where it is refused."""
    with stage(databases, catalog_poll_seconds=NEVER) as found:
        yield found


@pytest.fixture
def moves_on(place: Stage, monkeypatch: pytest.MonkeyPatch) -> MovesOn:
    """Have a store move on between a refusal, with the look at the map, and the next try: once for each shard named."""
    moved_on = Router._moved_on

    def then(store_id: UUID, *shards: str) -> None:
        homes = list(shards)

        def look(router: Router, *arguments: Any, **options: Any) -> bool:
            found = moved_on(router, *arguments, **options)
            if homes:
                place.move(store_id, homes.pop(0))
            return found

        monkeypatch.setattr(Router, "_moved_on", look)

    return then


def test_a_read_follows_a_store_that_moves_twice(place: Stage, asleep: Stage, moves_on: MovesOn) -> None:
    store_id, source = place.new_store(rows=1)
    place.move(store_id, place.other(source))
    moves_on(store_id, source)
    assert asleep.market.router.read(asleep.scope(), store_id, READ_STORE, {})


def test_a_write_follows_a_store_that_moves_twice(place: Stage, asleep: Stage, moves_on: MovesOn) -> None:
    store_id, source = place.new_store(rows=1)
    place.move(store_id, place.other(source))
    moves_on(store_id, source)
    asleep.add_product(store_id)
    assert len(place.rows(source, store_id)["products"]) == 2
    assert place.count(place.other(source), store_id) == 0


def test_a_write_is_refused_for_now_where_every_map_it_goes_by_is_outdated(
    place: Stage, asleep: Stage, moves_on: MovesOn
) -> None:
    store_id, source = place.new_store(rows=1)
    place.move(store_id, place.other(source))
    moves_on(store_id, source, place.other(source))
    with pytest.raises(Unavailable, match="being moved"):
        asleep.add_product(store_id)
    found = place.rows(place.other(source), store_id)
    assert len(found["products"]) == 1
    assert place.count(source, store_id) == 0
    asleep.add_product(store_id)


def test_a_store_that_moves_while_stores_are_listed_is_listed(
    place: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new home is asked before it comes, and the old one when it has gone."""
    store_id, source = place.new_store(rows=1)
    on_shard = Router.on_shard

    def asked(router: Router, scope: Any, shard: str, *arguments: Any) -> Any:
        if shard == source and place.home(store_id) == source:
            until(lambda: place.other(source) in looked)
            place.move(store_id, place.other(source))
        rows = on_shard(router, scope, shard, *arguments)
        looked.append(shard)
        return rows

    looked: list[str] = []
    monkeypatch.setattr(Router, "on_shard", asked)
    market = place.market
    page = list_stores(
        market.router, market.maps, Cursors(place.settings.secret_key), place.scope(), limit=100, cursor=None
    )
    assert page.documents.count(str(store_id)) == 1
    assert looked.count(source) >= 2
