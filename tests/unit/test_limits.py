"""Whose request it is by its address, what the headers say, and what a worker on its own admits."""

from __future__ import annotations

import pytest

from config import load, parse_networks, parse_quota
from ephemeral.limiter import REMEMBERED_LOGS, Decision, Limit, Policy, Standing, WorkerWindows
from errors import ConfigurationError
from handlers.limits import client_address, limit_headers, refusal

PROXIES = parse_networks("", "10.0.0.0/8, 192.0.2.1, fd00::/8")
SESSION, STORE = Policy("session", 4, 10), Policy("store", 6, 10)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # not from a proxy of ours: its own word
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "8.8.8.8, 198.51.100.1", "198.51.100.1"),  # who can write the first can write anything
        ("10.1.2.3", "198.51.100.1, 192.0.2.1,10.9.9.9", "198.51.100.1"),
        ("10.1.2.3", "10.7.7.7", "10.7.7.7"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "nonsense", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1, unknown, 10.5.5.5", "10.5.5.5"),
        ("10.1.2.3", "198.51.100.1:4711", "198.51.100.1"),
        ("10.1.2.3", "[2001:db8:1:2:3::4]:4711", "2001:db8:1:2::/64"),
        ("fd00::1", "2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.7", "", "203.0.113.7"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "198.51.100.1", "local"),
    ],
)
def test_the_address_comes_from_trusted_proxies_only(peer: str, forwarded_for: str, expected: str) -> None:
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded_for}
    assert client_address(environ, PROXIES) == expected


def test_without_a_proxy_nothing_is_believed() -> None:
    environ = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "198.51.100.1"}
    assert client_address(environ, ()) == "127.0.0.1"


def decision(*standings: tuple[Policy, int, int, bool]) -> Decision:
    return Decision(
        not any(each[3] for each in standings), tuple(Standing(*each) for each in standings), shared=True
    )


def test_the_headers_name_every_policy_and_what_to_heed_first() -> None:
    assert limit_headers(decision((SESSION, 3, 10, False), (STORE, 0, 2, False))) == {
        "RateLimit-Policy": '"session";q=4;w=10, "store";q=6;w=10',
        "RateLimit": '"store";r=0;t=2, "session";r=3;t=10',
    }


def test_of_two_policies_that_refuse_the_one_that_does_so_longer_is_heeded() -> None:
    refused = decision((SESSION, 0, 3, True), (STORE, 0, 9, True))
    assert limit_headers(refused)["RateLimit"] == '"store";r=0;t=9, "session";r=0;t=3'
    error = refusal(refused)
    assert error.retry_after_seconds == 9
    assert error.members == {"violated-policies": ["session", "store"]}


def test_a_policy_that_refuses_comes_before_one_that_waits_longer() -> None:
    refused = decision((SESSION, 0, 3, True), (STORE, 1, 9, False))
    assert refusal(refused).retry_after_seconds == 3
    assert limit_headers(refused)["RateLimit"].startswith('"session";r=0;t=3')


@pytest.mark.parametrize(
    "text", ["", "200", "200/", "/10", "0/10", "10/0", "-1/10", "1.5/10", "10/3601", "²/1", "1/2/3"]
)
def test_a_quota_that_says_nothing_stops_the_start(text: str) -> None:
    with pytest.raises(ConfigurationError, match="RATE_LIMIT_KEY"):
        parse_quota("RATE_LIMIT_KEY", text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_LIMIT_STORE", "many"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ],
)
def test_settings_are_checked_at_the_start(name: str, value: str) -> None:
    required = {"CATALOG_DSN": "x", "DATABASE_USER": "x", "DATABASE_PASSWORD": "x"}
    with pytest.raises(ConfigurationError, match=name):
        load(required | {name: value})


# A worker on its own


class Alone:
    """A worker of so many, by a clock that stands still."""

    def __init__(self, workers: int) -> None:
        self.now = 0.0
        self._windows = WorkerWindows(workers, lambda: self.now)

    def ask(self, *limits: Limit) -> list[int]:
        return self._windows.decide(limits)

    def admits(self, *limits: Limit) -> bool:
        return self.ask(*limits)[0] == 1


def test_a_worker_on_its_own_admits_its_share_of_the_quota() -> None:
    alone, ada = Alone(workers=2), Limit(SESSION, "ada")
    assert [alone.ask(ada) for _ in range(3)] == [[1, 1, 10_000], [1, 0, 10_000], [0, 0, 10_000]]
    alone.now = 10.0
    assert alone.ask(ada) == [0, 0, 0]
    alone.now = 10.001
    assert alone.ask(ada) == [1, 1, 10_000]


def test_each_of_many_workers_admits_one_at_least() -> None:
    assert [Alone(workers=9).admits(Limit(SESSION, "ada")) for _ in range(2)] == [True, True]


def test_on_its_own_too_nothing_is_counted_where_any_policy_refuses() -> None:
    alone = Alone(workers=1)
    store = Limit(STORE, "s")
    assert [alone.admits(Limit(SESSION, who), store) for who in "aaab"] == [True] * 4
    assert [alone.admits(Limit(SESSION, "a"), store) for _ in range(3)] == [True, False, False]
    assert alone.ask(Limit(SESSION, "b"), store) == [1, 2, 10_000, 0, 10_000]


def test_a_worker_remembers_so_many_and_forgets_who_came_least_lately() -> None:
    alone, ada, bob = Alone(workers=4), Limit(SESSION, "ada"), Limit(SESSION, "bob")
    assert alone.admits(ada)
    assert alone.admits(bob)
    assert not alone.admits(ada)
    for number in range(REMEMBERED_LOGS - 1):
        assert alone.admits(Limit(SESSION, str(number)))
    assert alone.admits(bob)
    assert not alone.admits(bob)
