"""Requests that no HTTP library would send: refused as any other is, and never a 500 (contract section 2, "Errors")."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster_fixtures import Service
from tests.shop import Shop


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"POST /v1/stores HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/stores HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/stores HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"GET /v1/stores HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    ],
)
def test_a_request_that_is_no_http_gets_a_problem_too(market: Service, head: bytes, status: int) -> None:
    address = urlsplit(market.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        problem: Any = json.loads(answer.read())
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"]
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance"} <= problem.keys()


@pytest.mark.parametrize(
    "line",
    [
        b"Host: ",
        b"Host: a b",
        b"Host: [::1",
        b"Host: " + b"x" * 300,
        b"Host: h:p:1",
        b"Cookie: ;;;=;a",
        b"Cookie: \xff\xfe=\xff",
        b'Cookie: Consistency-Token="\\"',
        b"Authorization: \xff",
        b"Range: bytes=0-1",
        b"Accept: \xff;q=x",
        b"Accept-Encoding: ;q=",
        b"X-Forwarded-For: '",
        b"X-Request-Id: a\r\nX-Request-Id: b",
        b'If-None-Match: ",\xff',
        b"Content-Type: \xff",
        b"Expect: nothing",
    ],
)
def test_an_odd_header_breaks_nothing(shop: Shop, line: bytes) -> None:
    address = urlsplit(shop.service.base_url)
    request = f"GET {shop.path}/products?limit=1 HTTP/1.1\r\nConnection: close\r\n".encode()
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request + line + b"\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    assert answer.status in (200, 400, 417)
    assert answer.headers["X-Request-Id"]
    assert answer.status == 200 or json.loads(body)["status"] == answer.status


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nab", b"-1\r\n\r\n", b"fffffffffffffffff\r\n"])
def test_a_body_in_malformed_chunks_is_refused(shop: Shop, chunks: bytes) -> None:
    address = urlsplit(shop.service.base_url)
    head = (
        f"POST {shop.path}/products HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop.api_key}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head.encode() + chunks)
        connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        problem: Any = json.loads(answer.read())
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == 400
