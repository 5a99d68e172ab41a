"""The cache of products over HTTP: contract sections 3 and 4. A service of this module's own, with the flag on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Databases, Service, fresh_databases, serving
from tests.shop import Caller, Shop, at_once, eventually, ok, operator, refused

ABSENT = "01900000-0000-7000-8000-000000000000"
# So long that no entry expires while a test looks at it.
LONG_SECONDS = 60.0


@pytest.fixture(scope="module")
def databases(cluster: Cluster) -> Iterator[Databases]:
    with fresh_databases(cluster, scrypt_log2_n=8) as fresh:
        for node in cluster.topology.nodes():
            if node.name == cluster.primary(node.shard).name:
                with cluster.postgres.connect(node) as connection:
                    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        yield fresh


@pytest.fixture(scope="module")
def caching(databases: Databases) -> Iterator[Service]:
    with serving(databases.settings, cache_ttl_seconds=LONG_SECONDS) as service:
        switch(service, enabled=True)
        yield service


Statements = Callable[[], int]


@pytest.fixture
def statements(databases: Databases) -> Statements:
    """How often products were read so far, on all nodes together."""
    cluster = databases.cluster

    def count() -> int:
        total = 0
        for node in cluster.topology.nodes():
            with cluster.postgres.connect(node) as connection:
                row = connection.execute(
                    "SELECT coalesce(sum(s.calls), 0)"
                    " FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid"
                    " WHERE d.datname = %s AND s.query ~ '(list_products|search_products|read_product) \\*/'",
                    (databases.settings.database_name,),
                ).fetchone()
                assert row is not None
                total += int(row[0])
        return total

    return count


def switch(service: Service, *, enabled: bool, name: str = "redis_cache") -> None:
    """Set the flag, and wait until every worker has it."""
    callers = [operator(service) for _ in range(12)]
    ok(callers[0].put(f"/v1/admin/flags/{name}", json={"enabled": enabled}))
    eventually(lambda: all(ok(caller.get("/v1/admin/flags"))[name] is enabled for caller in callers))


@pytest.fixture(scope="module", params=["primary", "replicas"])
def shop(caching: Service, request: pytest.FixtureRequest) -> Shop:
    switch(caching, enabled=request.param == "replicas", name="read_replicas")
    shop = Shop.create(caching)
    # A worker that has just started does not know where its shards stand, and goes past the cache.
    everywhere = [shop.anyone.afresh() for _ in range(12)]
    eventually(lambda: all(cached(each.get("/products?limit=99")) != "bypass" for each in everywhere))
    return shop


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


def test_what_is_not_there_is_cached_too(shop: Shop, statements: Statements) -> None:
    path = f"/products/{ABSENT[:-4]}{shop.id[-4:]}"
    refused(shop.anyone.get(path), 404)
    before = statements()
    for _ in range(5):
        refused(shop.anyone.get(path), 404)
    assert statements() == before


def test_every_write_voids_what_it_changes_and_nothing_else(shop: Shop) -> None:
    """For a reader who carries nothing, no cookie either: only the voiding shows the new state."""
    stranger = shop.caller(None)
    mugs = [shop.product(stock=9) for _ in range(4)]
    old, page = mugs[0], "/products?limit=2"
    path, other = f"/products/{old['id']}", f"/products/{mugs[3]['id']}"
    writes: list[Callable[[], object]] = [
        lambda: ok(shop.merchant.patch(path, json={"price": 7})),
        lambda: ok(shop.place_order(shop.guest(), [(old, 2)]), 201),
    ]
    for write in writes:
        for read in (path, other, page):
            hit(stranger, read)
        write()
        assert cached(stranger.get(path)) == "miss"
        assert [cached(stranger.get(read)) for read in (other, page)] == ["hit", "hit"]  # not on the page
    assert ok(stranger.get(path))["stock"] == 7
    shop.product()
    assert cached(stranger.get(page)) == "miss"
    hit(stranger, page)
    hit(stranger, path)
    assert shop.merchant.delete(path).status_code == 204
    refused(stranger.get(path), 404)
    # Whether there is a next page depends on it as well.
    assert cached(stranger.get(page)) == "miss"


def test_a_cancelled_order_voids_what_it_restocks(shop: Shop) -> None:
    stranger = shop.caller(None)
    mug, other = shop.product(stock=5), shop.product()
    order = ok(shop.place_order(shop.guest(), [(mug, 3)]), 201)
    assert ok(hit(stranger, f"/products/{mug['id']}"))["stock"] == 2
    hit(stranger, f"/products/{other['id']}")
    ok(shop.merchant.post(f"/orders/{order['id']}/cancel"))
    assert ok(stranger.get(f"/products/{mug['id']}"))["stock"] == 5
    assert cached(stranger.get(f"/products/{other['id']}")) == "hit"


def test_a_refused_order_voids_nothing(shop: Shop) -> None:
    stranger = shop.caller(None)
    mug = shop.product(stock=1)
    hit(stranger, f"/products/{mug['id']}")
    refused(shop.place_order(shop.guest(), [(mug, 2)]), 409, "insufficient-stock")
    assert cached(stranger.get(f"/products/{mug['id']}")) == "hit"


def test_a_writer_sees_the_write_by_token_cookie_or_credential_alone(shop: Shop) -> None:
    """Another product's entry, which nobody voided, is older than the writer's position, and is not shown to it."""
    mug, other = shop.product(), shop.product()
    path = f"/products/{other['id']}"
    known(shop)
    for carry in ("cookie", "header", "credential", "credential behind two blanks"):
        hit(shop.anyone, path)
        answer = shop.merchant.patch(f"/products/{mug['id']}", json={"price": 1})
        ok(answer)
        token = answer.headers["Consistency-Token"]
        reader = shop.merchant if carry == "cookie" else shop.merchant.afresh()
        if carry == "header":
            reader = shop.caller(None)
            reader.http.headers["Consistency-Token"] = token
        if carry == "credential behind two blanks":  # RFC 9110 section 11.4: one or more
            reader.http.headers["Authorization"] = f"Bearer  {shop.api_key}"
        assert cached(reader.get(path)) == "miss", carry
        assert cached(hit(reader.afresh() if carry == "credential" else reader, path)) == "hit"


def known(shop: Shop) -> None:
    """Wait until all workers trust what is remembered for the merchant: right after a flag was turned, none does."""
    merchants = [shop.merchant.afresh() for _ in range(12)]
    eventually(lambda: all(cached(each.get("/products?limit=1")) != "bypass" for each in merchants))


def test_off_it_is_out_of_the_path_and_on_again_shows_nothing_of_before(caching: Service) -> None:
    shop = Shop.create(caching)
    mug = shop.product()
    path = f"/products/{mug['id']}"
    hit(shop.anyone, path)
    switch(caching, enabled=False)
    ok(shop.merchant.patch(path, json={"price": 77}))
    answer = shop.anyone.get(path)
    assert (cached(answer), "cache" in answer.headers["Server-Timing"]) == ("bypass", False)
    switch(caching, enabled=True)
    answer = shop.anyone.get(path)
    assert (cached(answer), ok(answer)["price"]) == ("miss", 77)


def test_a_thousand_misses_at_once_are_one_statement(shop: Shop, statements: Statements) -> None:
    for _ in range(3):
        shop.product()
    before = statements()
    assert at_once(shop.anyone, "/products?limit=3", 1000) == [200] * 1000
    assert statements() == before + 1


def test_the_counter_tells_hits_misses_and_bypasses(shop: Shop) -> None:
    def counted(result: str) -> float:
        text = requests.get(f"{shop.service.base_url}/metrics", timeout=10).text
        return float(text.split(f'cache_requests_total{{result="{result}"}} ')[1].split("\n")[0])

    path = f"/products/{shop.product()['id']}"
    before = counted("hit"), counted("miss")
    shop.anyone.get(path)
    hit(shop.anyone, path)
    assert counted("hit") >= before[0] + 1
    assert counted("miss") >= before[1] + 1
