"""What the people and programs that run the service look at."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster_fixtures import ROOT, Service

# The contract's tables, section 2, 4 (what stands so far) and 5.
CONTRACT = """
POST /v1/stores
GET /v1/stores
GET /v1/stores/{store_id}
POST /v1/stores/{store_id}/api-keys
DELETE /v1/stores/{store_id}/api-keys/{key_id}
POST /v1/stores/{store_id}/products
GET /v1/stores/{store_id}/products
GET /v1/stores/{store_id}/products/{product_id}
PATCH /v1/stores/{store_id}/products/{product_id}
DELETE /v1/stores/{store_id}/products/{product_id}
POST /v1/stores/{store_id}/customers
GET /v1/stores/{store_id}/customers
POST /v1/stores/{store_id}/sessions
DELETE /v1/stores/{store_id}/sessions/current
GET /v1/stores/{store_id}/cart
DELETE /v1/stores/{store_id}/cart
PUT /v1/stores/{store_id}/cart/items/{product_id}
POST /v1/stores/{store_id}/orders
GET /v1/stores/{store_id}/orders
GET /v1/stores/{store_id}/orders/{order_id}
POST /v1/stores/{store_id}/orders/{order_id}/pay
POST /v1/stores/{store_id}/orders/{order_id}/fulfil
POST /v1/stores/{store_id}/orders/{order_id}/cancel
GET /v1/admin/flags
PUT /v1/admin/flags/{name}
GET /v1/admin/topology
GET /v1/admin/stores/{store_id}/route
PUT /v1/admin/stores/{store_id}/pin
DELETE /v1/admin/stores/{store_id}/pin
POST /v1/admin/moves
GET /v1/admin/moves/{move_id}
DELETE /v1/admin/moves/{move_id}
GET /v1/admin/ranges
GET /v1/admin/ranges/{low}
PUT /v1/admin/ranges/{low}
DELETE /v1/admin/ranges/{low}
GET /healthz
GET /readyz
GET /metrics
GET /openapi.json
GET /docs
GET /
"""


def get(market: Service, path: str, **headers: str) -> requests.Response:
    return requests.get(urljoin(market.base_url, path), headers=headers, timeout=10)


def test_a_living_service_is_healthy_and_ready(market: Service) -> None:
    for path in ("/healthz", "/readyz"):
        answer = get(market, path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_document_is_valid_and_has_all_that_the_contract_names(market: Service) -> None:
    document = get(market, "/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    described = {
        f"{method.upper()} {path}" for path, operations in document["paths"].items() for method in operations
    }
    assert described == set(CONTRACT.strip().splitlines())


def test_everything_in_the_document_is_used_there(market: Service) -> None:
    answer = get(market, "/openapi.json")
    for kind in ("schemas", "parameters", "headers"):
        for name in answer.json()["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in answer.text, f"{kind}/{name}"


def test_a_client_that_has_the_document_does_not_get_it_again(market: Service) -> None:
    tag = get(market, "/openapi.json").headers["ETag"]
    again = get(market, "/openapi.json", **{"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def counted(text: str, name: str, **labels: str) -> float:
    """The sum of a sample over all labels that are not given."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_requests_are_counted_for_all_workers_together(market: Service) -> None:
    labels = {"method": "GET", "route": "/healthz", "status": "200"}
    before = counted(get(market, "/metrics").text, "http_requests_total", **labels)
    # A connection each: the workers share them out.
    for _ in range(20):
        assert get(market, "/healthz").status_code == 200
    # Whichever worker is asked says the same.
    for _ in range(6):
        text = get(market, "/metrics").text
        assert counted(text, "http_requests_total", **labels) == before + 20
        assert counted(text, "http_request_duration_seconds_count", method="GET", route="/healthz") >= 20


def test_the_figures_of_the_contract_are_there(market: Service) -> None:
    answer = get(market, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    names = {
        sample.name for family in text_string_to_metric_families(answer.text) for sample in family.samples
    }
    assert names >= {
        "http_requests_total",
        "http_request_duration_seconds_bucket",
        "pool_connections",
        "pool_waiting",
        "replica_lag_bytes",
        "node_up",
        "cache_requests_total",
        "limiter_decisions_total",
    }


def test_no_id_is_a_label(market: Service) -> None:
    store = "0198e0de-0000-7000-8000-000000000000"
    get(market, f"/v1/stores/{store}")
    get(market, f"/nowhere/{store}")
    assert store not in get(market, "/metrics").text


class References(HTMLParser):
    """Every address a page has its browser load or offers as a link."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "href") and value is not None:
                (self.linked if tag == "a" else self.loaded).append(value)


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/problems"])
def test_a_page_needs_nothing_from_elsewhere(market: Service, path: str) -> None:
    answer = get(market, path)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe" not in policy
    page = References()
    page.feed(answer.text)
    for address in page.loaded + page.linked:
        assert urlsplit(address).netloc == ""
        if not address.startswith("data:"):
            assert get(market, address).status_code == 200, address
    assert "url(http" not in answer.text


def test_the_documentation_is_cached_for_ever_and_travels_compressed(market: Service) -> None:
    (script,) = re.findall(r'src="(/docs/swagger-ui-bundle\.js\?v=\w+)"', get(market, "/docs").text)
    answer = get(market, script, **{"Accept-Encoding": "gzip"})
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert int(answer.headers["Content-Length"]) < len(answer.content) / 3
    plain = get(market, script, **{"Accept-Encoding": "identity"})
    assert plain.content == answer.content


def test_the_control_room_opens_without_asking_any_server_and_leads_on(market: Service) -> None:
    text = get(market, "/").text
    assert "Control room" in text
    assert "<noscript>" in text
    for path in ("/docs", "/openapi.json", "/metrics", "/readyz"):
        assert f'href="{path}"' in text


def test_the_files_of_the_control_room_have_one_version(market: Service) -> None:
    paths = set(re.findall(r'"(/control-room/\w+)/[\w.-]+"', get(market, "/").text))
    (path,) = paths
    for name, media_type in (
        ("main.js", "text/javascript"),
        ("1-theme.css", "text/css"),
        ("Chart.bundle.js", "text/javascript"),
    ):
        answer = get(market, f"{path}/{name}", **{"Accept-Encoding": "gzip"})
        assert answer.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for other in (f"{path}/config.py", f"{path}/..%2f..%2fops.py", "/control-room/0000/main.js"):
        assert get(market, other).status_code == 404


def test_no_file_of_the_control_room_makes_markup_of_data() -> None:
    """What is not there cannot be used wrongly: data becomes text and attributes only."""
    files = sorted((ROOT / "handlers" / "static" / "control_room").glob("*.js"))
    assert files
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage|console\."
    )
    assert {
        path.name: sinks.findall(path.read_text()) for path in files if sinks.search(path.read_text())
    } == {}
