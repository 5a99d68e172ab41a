"""The cache of products over HTTP: contract sections 3 and 4. This module has a service of its own, with the flag on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.shop import Caller, Json, Shop, eventually, ok, operator, refused

ABSENT = "01900000-0000-7000-8000-000000000000"
# So long that no entry expires while a test looks at it.
LONG_SECONDS = 60.0


@pytest.fixture(scope="module")
def caching(cluster: Cluster) -> Iterator[Service]:
    with (
        fresh_databases(cluster, scrypt_log2_n=8) as databases,
        serving(databases.settings, cache_ttl_seconds=LONG_SECONDS) as service,
    ):
        switch(service, enabled=True)
        yield service


def switch(service: Service, *, enabled: bool, name: str = "redis_cache") -> None:
    """Set the flag, and wait until every worker has it."""
    callers = [operator(service) for _ in range(12)]
    ok(callers[0].put(f"/v1/admin/flags/{name}", json={"enabled": enabled}))
    eventually(lambda: all(ok(caller.get("/v1/admin/flags"))[name] is enabled for caller in callers))


@pytest.fixture(scope="module", params=["primary", "replicas"])
def shop(caching: Service, request: pytest.FixtureRequest) -> Shop:
    switch(caching, enabled=request.param == "replicas", name="read_replicas")
    return Shop.create(caching)


def cached(answer: requests.Response) -> str:
    return answer.headers["X-Cache"]


def hit(caller: Caller, path: str) -> requests.Response:
    """The answer from the cache, which may take until the log has moved past every write under way."""
    found: list[requests.Response] = []

    def is_hit() -> bool:
        found.append(caller.get(path))
        return cached(found[-1]) == "hit"

    eventually(is_hit)
    return found[-1]


@pytest.mark.parametrize("path", ["/products", "/products?limit=2", "/products?q=mug", "/products/{id}"])
def test_an_answer_from_the_cache_is_the_same_bytes(shop: Shop, path: str) -> None:
    products = [shop.product() for _ in range(4)]
    path = path.format(id=products[0]["id"])
    first = shop.anyone.get(path)
    again = hit(shop.anyone.afresh(), path)
    assert (first.status_code, cached(first)) == (200, "miss")
    assert first.headers["X-Served-By"].startswith("shard-")
    assert again.headers["X-Served-By"] == "cache"
    assert again.content == first.content
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers.get("Link") == first.headers.get("Link")
    assert "cache" in again.headers["Server-Timing"]
    unchanged = shop.anyone.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
