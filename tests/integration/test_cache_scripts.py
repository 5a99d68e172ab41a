"""What the cache's scripts do, on a real server: leases, voiding, bounds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from ephemeral.cache import STORE_BYTES, Cache, Kept, Kind, Name, Stamp
from ephemeral.client import EphemeralUnavailable, connect
from ephemeral.positions import Place
from ephemeral.round_trip import RoundTrips
from tests.shard_servers import until
from tests.valkey_server import ValkeyServer, running_valkey

EPOCH, START = 5, (1, 100)
ONE, TWO, THREE = (uuid.UUID(int=number << 64) for number in (1, 2, 3))


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as running:
        yield running


class Store:
    """One store's part of the cache, with the words of a test."""

    def __init__(self, server: ValkeyServer, ttl_seconds: float = 60.0) -> None:
        self.cache = Cache(RoundTrips(connect(server.url, 1.0)), ttl_seconds, 1 << 40)
        self.id = uuid.uuid4()

    def name(self, text: str) -> Name:
        return Name(self.id, text)

    def look(self, text: str, wanted: Place = (1, 0), epoch: int = EPOCH) -> str:
        return self.cache.look(self.name(text), epoch, wanted)[0].outcome

    def fill(self, text: str, kept: Kept, at: Place = START) -> str:
        look, _ = self.cache.look(self.name(text), EPOCH, (1, 0))
        assert look.lease is not None, look
        return self.cache.fill(self.name(text), look.lease, Stamp(7, *at, at[1]), kept)

    def product(self, product_id: uuid.UUID, at: Place = START) -> str:
        return self.fill(str(product_id), Kept(b"{}", low=product_id, high=product_id), at)

    def change(self, product_id: uuid.UUID, at: Place | None = (1, 200), kind: Kind = "C") -> None:
        self.cache.change(self.id, EPOCH, at, [(kind, product_id)])


@pytest.fixture
def store(server: ValkeyServer) -> Store:
    return Store(server)


def test_one_gets_the_lease_and_the_others_wait_for_the_entry(store: Store) -> None:
    look, _ = store.cache.look(store.name("x"), EPOCH, (1, 0))
    assert look.lease is not None
    assert [store.look("x") for _ in range(3)] == ["wait"] * 3
    kept = Kept("größe\n\n".encode(), "tag", "next", low=ONE, high=TWO)
    assert store.cache.fill(store.name("x"), look.lease, Stamp(7, 1, 100, 103), kept) == "stored"
    found, _ = store.cache.look(store.name("x"), EPOCH, (1, 100))
    assert (found.outcome, found.kept, found.stamp) == ("hit", kept, Stamp(7, 1, 100, 103))
    assert store.cache.fill(store.name("x"), look.lease, Stamp(7, 1, 100, 103), kept) == "refused"


def test_a_lease_that_is_given_back_is_anothers_to_take(store: Store) -> None:
    look, _ = store.cache.look(store.name("x"), EPOCH, (1, 0))
    assert look.lease is not None
    store.cache.release(store.name("x"), look.lease)
    assert store.look("x") == "lease"


def test_a_lease_that_a_frozen_server_grants_when_it_goes_on_is_given_back(
    server: ValkeyServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for it has gone on without; all others would wait for him."""
    monkeypatch.setattr("ephemeral.cache.LEASE_SECONDS", 3600.0)
    other = Store(server)
    other.id = store.id
    assert store.look("y") == "lease"  # by a connection and a script that are there
    with server.frozen(), pytest.raises(EphemeralUnavailable):
        store.look("x")
    until(lambda: bool(server.admin.hexists(store.name("x").keys()[0], "lease:x")))
    assert other.look("x") == "wait"

    def given_back() -> bool:
        store.cache.tend()
        return other.look("x") == "lease"

    until(given_back)


@pytest.mark.parametrize("wanted", [(1, 101), (2, 0), (2, 100)])
def test_who_has_to_see_more_or_another_timeline_does_not_get_it(store: Store, wanted: Place) -> None:
    assert store.product(ONE) == "stored"
    assert store.look(str(ONE), (1, 100)) == "hit"
    assert store.look(str(ONE), wanted) == "lease"


@pytest.mark.parametrize(
    ("kind", "changed", "voided"),
    [
        ("C", ONE, []),
        ("C", TWO, ["page"]),
        ("C", THREE, ["page"]),
        ("S", ONE, ["page"]),
        ("S", TWO, ["page"]),
    ],
)
def test_a_page_is_void_when_one_of_its_products_changes_or_its_end_may(
    store: Store, kind: Kind, changed: uuid.UUID, voided: list[str]
) -> None:
    assert store.fill("page", Kept(b"[]", low=TWO, high=THREE)) == "stored"
    store.change(changed, kind=kind)
    assert (store.look("page") != "hit") == bool(voided)


def test_a_fill_that_was_read_before_the_latest_change_is_refused(store: Store) -> None:
    for at, outcome in (((1, 199), "refused"), ((1, 200), "stored")):
        look, _ = store.cache.look(store.name("x"), EPOCH, (1, 0))
        assert look.lease is not None
        store.change(ONE)
        kept = Kept(b"", low=ONE, high=ONE)
        assert store.cache.fill(store.name("x"), look.lease, Stamp(7, *at, 300), kept) == outcome


def test_a_change_at_a_position_that_nobody_knows_refuses_every_fill_under_way(store: Store) -> None:
    look, _ = store.cache.look(store.name("x"), EPOCH, (1, 0))
    assert look.lease is not None
    store.change(ONE, at=None)
    store.change(TWO, at=(1, 150))
    assert store.cache.fill(store.name("x"), look.lease, Stamp(7, 1, 999, 999), Kept(b"")) == "refused"


def test_whoever_makes_it_is_told_where_the_store_was_changed_last(store: Store) -> None:
    store.change(ONE, (1, 300))
    store.change(TWO, (1, 200))
    look, _ = store.cache.look(store.name("x"), EPOCH, (1, 0))
    assert look.lease is not None
    assert look.lease.after == (1, 300)


def test_more_changes_than_are_kept_void_everything(store: Store) -> None:
    assert store.fill("page", Kept(b"[]", low=TWO, high=THREE)) == "stored"
    for _ in range(128):
        store.change(ONE)
    assert store.look("page") == "hit"
    store.change(ONE)
    assert store.look("page") == "lease"


def test_after_a_move_it_is_a_miss_and_who_has_the_old_map_is_told(store: Store) -> None:
    assert store.product(ONE) == "stored"
    assert store.look(str(ONE), epoch=EPOCH + 1) == "lease"
    assert store.look(str(ONE), epoch=EPOCH) == "moved"


def test_a_store_throws_out_its_own_entries(server: ValkeyServer) -> None:
    greedy, modest = Store(server), Store(server)
    assert modest.product(ONE) == "stored"
    page = b"x" * (STORE_BYTES // 8)
    assert {greedy.fill(f"page {number}", Kept(page)) for number in range(30)} == {"stored"}
    used = sum(len(value) for value in server.admin.hvals(greedy.name("").keys()[1]))
    assert STORE_BYTES // 2 < used <= STORE_BYTES
    assert modest.look(str(ONE)) == "hit"


def test_what_is_more_than_a_stores_share_throws_nothing_out_and_leaves_nothing(server: ValkeyServer) -> None:
    store, whole = Store(server), Kept(b"x" * STORE_BYTES)
    assert store.fill("all", whole) == "full"
    assert not server.admin.exists(store.name("").keys()[1])
    assert store.product(ONE) == "stored"
    assert store.fill("all", whole) == "full"
    assert store.look(str(ONE)) == "hit"


def test_while_the_server_is_too_full_nothing_is_kept(server: ValkeyServer) -> None:
    store = Store(server)
    store.cache = Cache(RoundTrips(connect(server.url, 1.0)), 60.0, 1)
    store.cache.weigh()
    assert store.product(ONE) == "late"
    assert store.look(str(ONE)) == "lease"


def test_entries_live_for_their_time_and_absent_things_for_a_part_of_it(server: ValkeyServer) -> None:
    store = Store(server, ttl_seconds=100.0)
    left: list[float] = []
    for text, kept in (("there", Kept(b"{}")), ("absent", Kept(b"", absent=True))):
        assert store.fill(text, kept) == "stored"
        seconds, _ = server.admin.time()
        left.append(int(entry_of(server, store, text)[0]) / 1000 - seconds)
    assert 75 < left[0] <= 101
    assert 20 < left[1] <= 31


def test_what_is_known_of_changes_outlives_every_entry(server: ValkeyServer) -> None:
    """Changes that were counted anew would be taken for those that an entry has seen."""
    store = Store(server, ttl_seconds=1000.0)
    for touch in (lambda: store.change(ONE), lambda: store.look(str(ONE))):
        touch()
        assert server.admin.ttl(store.name("").keys()[0]) > 1000


def test_an_entry_that_expires_soon_is_made_anew_by_one_before_it_does(server: ValkeyServer) -> None:
    """The longer its making took, the earlier (XFetch)."""
    store = Store(server)
    assert store.product(ONE) == "stored"
    expires, _, *rest = entry_of(server, store, str(ONE))
    took = b"1000000000"  # longer than it lives
    server.admin.hset(store.name("").keys()[1], str(ONE), b" ".join([expires, took, *rest]))
    assert store.look(str(ONE)) == "lease"
    assert [store.look(str(ONE)) for _ in range(3)] == ["hit"] * 3


def test_when_the_clock_is_set_back_nothing_outlives_its_time(server: ValkeyServer) -> None:
    """By the new clock an entry, and a lease whose holder died, would be good for an hour."""
    store, hour = Store(server), 3_600_000
    assert store.product(ONE) == "stored"
    expires, *rest = entry_of(server, store, str(ONE))
    later = b" ".join([str(int(expires) + hour).encode(), *rest])
    server.admin.hset(store.name("").keys()[1], str(ONE), later)
    assert store.look(str(ONE)) == "lease"
    state, lease = store.name("").keys()[0], f"lease:{ONE}"
    given = server.admin.hget(state, lease)
    assert isinstance(given, bytes)
    lease_id, until_ms, granted, g = given.decode().split(" ")
    server.admin.hset(state, lease, f"{lease_id} {int(until_ms) + hour} {int(granted) + hour} {g}")
    assert store.look(str(ONE)) == "lease"
    assert store.look(str(ONE)) == "wait"


def test_scripts_that_were_flushed_are_sent_again(store: Store, server: ValkeyServer) -> None:
    assert store.product(ONE) == "stored"
    server.admin.script_flush()
    assert store.look(str(ONE)) == "hit"
    server.admin.script_flush()
    store.change(ONE)
    server.admin.script_flush()
    assert store.product(ONE, (1, 200)) == "stored"


def test_an_entry_of_before_a_restart_does_not_count(server: ValkeyServer) -> None:
    store = Store(server)
    assert store.product(ONE) == "stored"
    server.admin.save()
    server.restart(with_snapshot=True)
    assert server.admin.hexists(store.name("").keys()[1], str(ONE))
    until(lambda: answers(store))
    assert store.product(ONE) == "stored"


def entry_of(server: ValkeyServer, store: Store, text: str) -> list[bytes]:
    """What lies in the server, divided at its blanks."""
    entry = server.admin.hget(store.name("").keys()[1], text)
    assert isinstance(entry, bytes)
    return entry.split(b" ")


def answers(store: Store) -> bool:
    try:
        return store.look("another") in ("lease", "wait")
    except EphemeralUnavailable:
        return False


@pytest.mark.parametrize("setting", [("maxmemory", "1"), ("replica-of", "")])
def test_a_server_that_refuses_is_not_there(server: ValkeyServer, setting: tuple[str, str]) -> None:
    store = Store(server)
    assert store.product(ONE) == "stored"
    if setting[0] == "maxmemory":
        server.admin.config_set(*setting)
    else:
        server.admin.replicaof("127.0.0.1", "1")
    try:
        assert store.look("another") == "refused"
        if setting[0] == "replica-of":
            with pytest.raises(EphemeralUnavailable):
                store.change(ONE)
    finally:
        server.admin.config_set("maxmemory", "0")
        server.admin.replicaof("NO", "ONE")


def test_a_change_is_noted_also_where_the_server_is_full(server: ValkeyServer) -> None:
    """What is there can be read while nothing can be stored, so it has to be voided."""
    stores = [Store(server) for _ in range(2)]
    assert stores[0].product(ONE) == "stored"
    server.admin.config_set("maxmemory", "1")
    try:
        assert stores[0].look(str(ONE)) == "hit"
        for store in stores:  # one that is known there, and one that is not
            store.change(ONE)
        assert stores[0].look(str(ONE)) == "refused"
    finally:
        server.admin.config_set("maxmemory", "0")
