"""A mover that is killed after a thing it does, and followed by another: the move ends, nothing is lost or left over.

The suite takes those deeds after which things stand most differently; `EVERY_DEED=1` takes all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from operations.moves import undo_move
from tests.cluster_fixtures import ROOT, Databases, as_environment
from tests.moving import Stage, finish, stage, until_state, writing
from tests.shard_servers import until

# What a move does, in order. Marks are written until nobody would wait for long: here, once each time.
FORTH = (
    *("register", "claim", "register", "claim", "register", "publish", "register", "register", "Snapshot"),
    *("copy_rows", "register", "subscribe", "write_mark", "register", "publish", "register", "make_slot"),
    *("register", "subscribe", "write_mark", "write_mark"),
    *("block", "drain", "write_mark", "hold_block", "prepare", "decide", "depart", "open", "opened"),
    *("drop", "forget", "drop", "forget", "enable", "drop", "forget"),
)
# A copy; blocked; blocked without end; decided; departed; the way forth half removed.
DEEDS: tuple[int, ...] = (10, 22, 25, 27, 28, 32)
if os.environ.get("EVERY_DEED"):
    DEEDS = tuple(range(1, len(FORTH) + 1))
DECIDED = FORTH.index("decide") + 1


@pytest.fixture(scope="module")
def place(databases: Databases) -> Iterator[Stage]:
    with stage(databases) as found:
        yield found


def kill_after(place: Stage, count: int) -> str:
    """The last thing that a mover did."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.moves_killed", str(count)],
        cwd=ROOT,
        env={**os.environ, **as_environment(place.settings)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("count", DEEDS)
def test_a_mover_that_is_killed_is_followed_by_another(place: Stage, count: int) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    with writing(place, store_id, writers=1) as made:
        move = place.ask(store_id, target)
        assert kill_after(place, count) == FORTH[count - 1]
        finish(place)
    move = place.found(move)
    assert (move.state, move.error) == ("done", None)
    assert move.attempt == (1 if count >= DECIDED else 2)
    assert place.home(store_id) == target
    found = {row for (row,) in place.sql(target, "SELECT id FROM products WHERE store_id = %s", store_id)}
    assert set(made) <= found
    assert len(found) == len(made) + 20
    assert place.count(source, store_id) == 0
    assert place.left_over() == []


def test_what_can_be_undone_replicates_back_whoever_began_it(place: Stage) -> None:
    store_id, source = place.new_store()
    move = place.ask(store_id, place.other(source), undo_seconds=60)
    assert kill_after(place, FORTH.index("opened") + 1) == "opened"
    with place.mover():
        until(lambda: place.sql(source, "SELECT subname FROM pg_subscription WHERE subenabled"))
        undo_move(place.market.catalog, move.id)
        until_state(place, move, "rolled_back")
    finish(place)
    assert place.home(store_id) == source
    assert place.left_over() == []


UNDOING = (
    *("register", "claim", "unblock", "register", "claim", "retract"),
    *("drop", "forget", "drop", "forget", "enable", "drop", "forget", "write_mark", "write_mark"),
    *("block", "drain", "write_mark", "hold_block", "prepare", "decide", "depart", "open"),
)
# Blocked without end; decided; departed.
UNDOING_DEEDS: tuple[int, ...] = (19, 21, 22)
if os.environ.get("EVERY_DEED"):
    UNDOING_DEEDS = tuple(range(1, len(UNDOING) + 1))


@pytest.mark.parametrize("count", UNDOING_DEEDS)
def test_an_undoing_that_is_killed_is_finished_by_the_next_mover(place: Stage, count: int) -> None:
    store_id, source = place.new_store()
    target = place.other(source)
    with writing(place, store_id, writers=1) as made:
        with place.mover():
            move = until_state(place, place.ask(store_id, target, undo_seconds=60), "done")
        undo_move(place.market.catalog, move.id)
        assert kill_after(place, count) == UNDOING[count - 1]
        with place.mover():
            until_state(place, move, "rolled_back")
            finish(place)
    assert place.home(store_id) == source
    found = {row for (row,) in place.sql(source, "SELECT id FROM products WHERE store_id = %s", store_id)}
    assert set(made) <= found
    assert len(found) == len(made) + 20
    assert place.count(target, store_id) == 0
    assert place.left_over() == []
