"""Every form of refusal: contract section 2, "Errors"."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from tests.cluster_fixtures import Service
from tests.shop import Shop, new_product, ok, operator, refused

MIB = 1 << 20
JSON = {"Content-Type": "application/json"}


def nested(depth: int, inner: str = "1") -> str:
    return "[" * depth + inner + "]" * depth


def in_attributes(value: str) -> bytes:
    return f'{{"title":"x","price":1,"stock":1,"attributes":{{"a":{value}}}}}'.encode()


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  \n",
    "cut off": b'{"title": "x"',
    "no quotes": b"{title: 1}",
    "single quotes": b"{'title': 'x'}",
    "trailing comma": b'{"title": "x",}',
    "two documents": in_attributes("1") * 2,
    "comment": in_attributes("1") + b" // x",
    "byte order mark": b"\xef\xbb\xbf" + in_attributes("1"),
    "UTF-16": json.dumps(new_product()).encode("utf-16"),
    "not UTF-8": b'{"title": "\xff", "price": 1, "stock": 1}',
    "overlong UTF-8": b'{"title": "\xc0\x80", "price": 1, "stock": 1}',
    "surrogate in UTF-8": b'{"title": "\xed\xa0\x80", "price": 1, "stock": 1}',
    "name not UTF-8": b'{"\xff": 1}',
    "lone surrogate": b'{"title": "\\ud800", "price": 1, "stock": 1}',
    "surrogates the wrong way round": b'{"title": "\\udc00\\ud800", "price": 1, "stock": 1}',
    "lone surrogate in attributes": in_attributes('"\\udfff"'),
    "lone surrogate in a name": in_attributes('{"\\ud800": 1}'),
    "raw control character": b'{"title": "a\nb", "price": 1, "stock": 1}',
    "bad escape": b'{"title": "\\x41", "price": 1, "stock": 1}',
    "NaN": b'{"title": "x", "price": NaN, "stock": 1}',
    "Infinity": in_attributes("-Infinity"),
    "leading zero": b'{"title": "x", "price": 01, "stock": 1}',
    "hexadecimal": b'{"title": "x", "price": 0x1, "stock": 1}',
    "plus sign": b'{"title": "x", "price": +1, "stock": 1}',
    "form": b"title=x&price=1&stock=1",
    "nested too deeply": in_attributes(nested(200_000)),
    "open for ever": b"[" * 500_000,
    "number beyond a double": in_attributes("1e999"),
}

# What a body of JSON has wrong, and the place of it.
WRONG: dict[str, tuple[bytes, str]] = {
    "array": (b"[]", ""),
    "string": (b'"x"', ""),
    "number": (b"1", ""),
    "null": (b"null", ""),
    "true": (b"true", ""),
    "no field": (b"{}", "/title"),
    "huge integer": (b'{"title": "x", "stock": 1, "price": ' + b"9" * 5000 + b"}", "/price"),
    "huge negative integer": (b'{"title": "x", "stock": 1, "price": -' + b"9" * 5000 + b"}", "/price"),
    "fraction": (b'{"title": "x", "stock": 1, "price": 1.5}', "/price"),
    "fraction before the end": (b'{"price": 1.5, "stock": ', ""),
    "fraction before no UTF-8": (b'{"price": 1.5, "title": "\xff"}', ""),
    "fraction beside depth": (
        b'{"stock": 1, "price": 1.5, "title": ' + nested(700).encode() + b"}",
        "/title",
    ),
    "fraction before depth": (
        b'{"price": 1.5, "stock": 1, "x": ' + nested(700).encode() + b"}",
        "/price",
    ),
    "tiny fraction": (b'{"title": "x", "stock": 1, "price": 1e-7}', "/price"),
    "U+0000": (b'{"title": "\\u0000", "price": 1, "stock": 1}', "/title"),
    "deep U+0000": (in_attributes(nested(600, '"\\u0000"')), "/attributes"),
    "deep U+0000 in objects": (in_attributes('{"a":' * 600 + '"\\u0000"' + "}" * 600), "/attributes"),
    "U+0000 among many": (in_attributes('["\\\\u0000","\\u0000"]'), "/attributes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_json_is_refused(shop: Shop, name: str) -> None:
    problem = refused(shop.merchant.post("/products", data=MALFORMED[name], headers=JSON), 400)
    assert [error["path"] for error in problem["errors"]] in ([""], ["/price"], ["/attributes"])


@pytest.mark.parametrize("name", WRONG)
def test_json_of_the_wrong_kind_is_refused_by_its_place(shop: Shop, name: str) -> None:
    body, path = WRONG[name]
    problem = refused(shop.merchant.post("/products", data=body, headers=JSON), 400)
    (error,) = problem["errors"]
    assert error.keys() == {"path", "message"}
    assert error["message"]
    # A body with two mistakes may be told of either.
    assert error["path"] in ({path, "/x", "/price", ""} if "depth" in name or "deep" in name else {path})


@pytest.mark.parametrize(
    "body", ['"\\\\u0000"', '"u0000"', nested(200), '"\\ud83c\\udf75"', '"\\u0001\\u001f"', "1E+2"]
)
def test_what_only_looks_like_it_is_taken(shop: Shop, body: str) -> None:
    product = ok(shop.merchant.post("/products", data=in_attributes(body), headers=JSON), 201)
    assert product["attributes"] == {"a": json.loads(body)}
    assert ok(shop.anyone.get(f"/products/{product['id']}")) == product


def test_of_a_field_that_is_given_twice_the_last_counts(shop: Shop) -> None:
    body = b'{"title": "first", "price": 1, "stock": 1, "title": "last"}'
    assert ok(shop.merchant.post("/products", data=body, headers=JSON), 201)["title"] == "last"


def test_a_whole_number_may_be_written_with_a_point(shop: Shop) -> None:
    body = b'{"title": "x", "price": 12.0, "stock": 1e2}'
    product = ok(shop.merchant.post("/products", data=body, headers=JSON), 201)
    assert (product["price"], product["stock"]) == (12, 100)


# Media types


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json-patch+json",
        "json",
        "application/json, text/plain",
    ],
)
def test_another_media_type_is_415(shop: Shop, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    body = json.dumps(new_product()).encode()
    refused(shop.merchant.post("/products", data=body, headers=headers), 415)
    refused(
        shop.merchant.patch("/products/01900000-0000-7000-8000-000000000000", data=body, headers=headers), 415
    )


@pytest.mark.parametrize(
    "media_type",
    ["application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/json ; a=b"],
)
def test_a_media_type_may_have_parameters(shop: Shop, media_type: str) -> None:
    body = json.dumps(new_product(title="Käse"), ensure_ascii=False).encode()
    answer = shop.merchant.post("/products", data=body, headers={"Content-Type": media_type})
    assert ok(answer, 201)["title"] == "Käse"


# Sizes


def padded(size: int) -> bytes:
    body = json.dumps(new_product()).encode()
    return body + b" " * (size - len(body))


def pieces(body: bytes) -> Iterator[bytes]:
    """Sent without a length, in chunks."""
    for start in range(0, len(body), 100_000):
        yield body[start : start + 100_000]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_1_mib_is_taken_and_one_byte_more_is_413(shop: Shop, chunked: bool) -> None:
    def send(size: int) -> requests.Response:
        body = padded(size)
        return shop.merchant.post("/products", data=pieces(body) if chunked else body, headers=JSON)

    ok(send(MIB), 201)
    refused(send(MIB + 1), 413)
    refused(send(3 * MIB), 413)
    ok(send(1000), 201)  # the connection, or another one, goes on


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_sent(shop: Shop) -> None:
    host = urlsplit(shop.service.base_url).netloc
    connection = http.client.HTTPConnection(host, timeout=10)
    headers = JSON | {"Authorization": f"Bearer {shop.api_key}", "Content-Length": str(10**12)}
    connection.request("POST", f"{shop.path}/products", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.read())["status"] == 413
    connection.close()


# Paths and methods


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/stores/",
        "/v2/stores",
        "/v1/store",
        "/V1/stores",
        "/v1//stores",
        "/v1/stores/{id}/",
        "/v1/stores/{id}/products/",
        "/v1/stores/{id}/basket",
        "/v1/stores/{id}/orders/x/refund",
        "/v1/stores/%2e%2e/%00",
        "/v1/admin",
        "/nowhere/\u2603/%ff/%f0%28",
        "/index.php?id=1%27",
        "/static/app.py",
        "/.env",
    ],
)
def test_an_unknown_path_is_404(shop: Shop, path: str) -> None:
    for caller in (operator(shop.service), shop.caller(None)):
        caller.path = ""
        for method in ("GET", "POST", "DELETE"):
            refused(caller.request(method, path.format(id=shop.id), allow_redirects=False), 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/stores", {"GET", "POST"}),
        ("/v1/stores/{id}", {"GET"}),
        ("/v1/stores/{id}/api-keys", {"POST"}),
        ("/v1/stores/{id}/api-keys/{id}", {"DELETE"}),
        ("/v1/stores/{id}/products", {"GET", "POST"}),
        ("/v1/stores/{id}/products/{id}", {"GET", "PATCH", "DELETE"}),
        ("/v1/stores/{id}/customers", {"GET", "POST"}),
        ("/v1/stores/{id}/sessions", {"POST"}),
        ("/v1/stores/{id}/sessions/current", {"DELETE"}),
        ("/v1/stores/{id}/cart", {"GET", "DELETE"}),
        ("/v1/stores/{id}/cart/items/{id}", {"PUT"}),
        ("/v1/stores/{id}/orders", {"GET", "POST"}),
        ("/v1/stores/{id}/orders/{id}", {"GET"}),
        ("/v1/stores/{id}/orders/{id}/pay", {"POST"}),
        ("/v1/stores/{id}/orders/{id}/fulfil", {"POST"}),
        ("/v1/stores/{id}/orders/{id}/cancel", {"POST"}),
        ("/v1/admin/flags", {"GET"}),
        ("/v1/admin/flags/sharding", {"PUT"}),
        ("/v1/admin/topology", {"GET"}),
        ("/v1/admin/stores/{id}/route", {"GET"}),
        ("/healthz", {"GET"}),
        ("/readyz", {"GET"}),
        ("/metrics", {"GET"}),
        ("/openapi.json", {"GET"}),
        ("/", {"GET"}),
    ],
)
def test_a_method_that_a_path_does_not_take_is_405(shop: Shop, path: str, allowed: set[str]) -> None:
    caller = operator(shop.service)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - allowed:
        answer = caller.request(method, path.format(id=shop.id))
        refused(answer, 405)
        named = set(answer.headers["Allow"].replace(" ", "").split(","))
        assert named - {"HEAD", "OPTIONS"} == allowed


def test_head_answers_as_get_does_without_a_body(shop: Shop) -> None:
    product = shop.product()
    for path in ("", "/products", f"/products/{product['id']}"):
        whole = shop.anyone.get(path)
        head = requests.head(f"{shop.service.base_url}{shop.path}{path}", timeout=10)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("Content-Type", "Content-Length", "ETag"):
            assert head.headers.get(name) == whole.headers.get(name)
    missing = requests.head(f"{shop.service.base_url}{shop.path}/products/x", timeout=10)
    assert (missing.status_code, missing.content) == (404, b"")


# What every problem says


def test_a_problem_says_which_request_it_is_about(shop: Shop) -> None:
    path = "/products/01900000-0000-7000-8000-000000000000"
    assert refused(shop.anyone.get(path + "?a=b"), 404)["instance"] == shop.path + path


@pytest.mark.parametrize("path", ["/\u2603", "/%ff", "/a%20b", "/%00", '/"<x>"', "/a|b", "/%25"])
def test_the_request_is_named_by_a_uri_reference(market: Service, path: str) -> None:
    problem = refused(operator(market).get(path), 404)
    assert re.fullmatch(r"(/([A-Za-z0-9._~-]|%[0-9A-F]{2})*)+", problem["instance"])


def test_what_went_wrong_never_tells_what_is_inside(shop: Shop, market: Service) -> None:
    """Texts that are SQL, a format, a template or a path to somebody."""
    for text in (
        "'; DROP TABLE stores; --",
        "%s %(x)s %%",
        "{0}{x!r}",
        "${jndi:x}",
        "../../etc/passwd",
        "\\",
        "\x7f",
    ):
        product = shop.product(title=text, description=text, attributes={text: text})
        assert (product["title"], product["attributes"]) == (text, {text: text})
        ok(shop.anyone.get("/products", params={"q": text}))
        refused(shop.anyone.get("/products", params={"cursor": text}), 400)
        refused(shop.anyone.get(f"/products/{text}"), 404)
        refused(operator(market).put(f"/v1/admin/flags/{text}", json={"enabled": True}), 404)
    assert shop.anyone.get().status_code == 200
