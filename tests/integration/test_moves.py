"""A store's move from one shard to the other, on real servers: everything arrives, and nothing is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster_fixtures import Databases
from tests.moving import Stage, stage


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def test_a_store_moves_with_all_its_rows_and_nothing_stays_behind(place: Stage) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    before = place.rows(source, store_id)
    move = place.move(store_id, target)
    assert (move.state, move.error) == ("done", None)
    assert place.home(store_id) == target
    assert place.rows(target, store_id) == before
    assert all(before.values())
    assert place.count(source, store_id) == 0
    assert place.left_over() == []
    assert move.rows_copied == sum(map(len, before.values()))
