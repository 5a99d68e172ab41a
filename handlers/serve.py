"""From a declared endpoint to a Flask view, and what every answer has in common.

One request, in this order: its quotas where they are in force, who is asking, the query, the body, the handler, the
headers. Each step may end it with an `ApiError`, which `handlers/problems.py` writes down.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from time import perf_counter
from typing import Any
from uuid import UUID

import msgspec
from flask import Flask, Response, g, request

import logs
import metrics
from errors import Forbidden, NotFound, Unauthorized
from handlers.bodies import BodyReader, QueryReader
from handlers.call import Answer, Call
from handlers.endpoint import ENDPOINTS, Endpoint
from handlers.limits import Admission, Limits, limit_headers
from operations.credentials import REMEMBERED, Credential
from operations.marketplace import Marketplace
from routing.scope import Scope
from routing.token import merge

TOKEN_HEADER = "Consistency-Token"  # noqa: S105 - a header's name
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# A browser keeps its token as long as a session lives; a token only ever asks for more, so an old one does no harm.
_COOKIE_SECONDS = 30 * 24 * 3600


def init_app(app: Flask, marketplace: Marketplace) -> None:
    """Register every declared endpoint, and the hooks around all requests."""
    app.url_map.merge_slashes = False  # no redirect to another spelling: a path is this one or none
    app.before_request(_begin)
    app.after_request(_finish)
    limits = Limits(marketplace.settings, marketplace.limiter)
    for declared in ENDPOINTS:
        app.add_url_rule(
            declared.path.replace("{", "<").replace("}", ">"),
            endpoint=declared.name,
            view_func=_view(declared, marketplace, limits),
            methods=[declared.method],
        )


def _view(declared: Endpoint, marketplace: Marketplace, limits: Limits) -> Callable[..., Response]:
    read_body = BodyReader(declared)
    read_query = QueryReader(declared.query)
    handler = declared.handler
    about_a_store = "store_id" in declared.path and declared.who != {"operator"}

    def answer_to(path: Mapping[str, str], scope: Scope) -> Answer:
        ids: dict[str, Any] = {
            name: value if name == "name" else _uuid(value) for name, value in path.items()
        }
        if about_a_store:
            scope.store_id = ids["store_id"]
        call = Call(
            marketplace=marketplace,
            scope=scope,
            credential=_authenticate(declared, marketplace, scope, ids.get("store_id")),
            query=read_query(request.args),
            body=read_body(request),
            headers=request.headers,
        )
        return handler(call, **ids)

    def view(**path: str) -> Response:
        g.route = declared.path
        scope = g.scope = Scope(marketplace.maps.current().flags)
        g.keep, g.count = marketplace.memory.keep, marketplace.load.count
        _see_earlier_writes(scope, marketplace)
        if scope.flags.rate_limit:
            store_id = path["store_id"] if about_a_store else None
            g.admission = scope.admission = _admission(limits, marketplace, store_id)
        if declared.writes:
            scope.settle()  # a read asks it beside the first thing that it asks Redis, see routing/scope.py
        try:
            answer = answer_to(path, scope)
        finally:
            scope.settle()  # a request that asked for nothing counts as well, whatever its answer
        response = Response(answer.body, answer.status, content_type="application/json")
        if not answer.body:
            del response.headers["Content-Type"]
        for name, value in answer.headers.items():
            response.headers[name] = value
        return response

    return view


def _admission(limits: Limits, marketplace: Marketplace, store_id: str | None) -> Admission | None:
    """Whom the request counts for; None where it does not."""
    store_id = store_id.lower() if store_id and _CANONICAL_UUID.fullmatch(store_id) else None
    bearer = _bearer()
    credential = marketplace.credentials.recognize(bearer) if bearer else None
    return limits.admission(credential, request.environ, store_id)


def _uuid(text: str) -> UUID:
    if not _CANONICAL_UUID.fullmatch(text):
        raise NotFound("There is no such thing.")
    return UUID(text)


def _authenticate(
    declared: Endpoint, marketplace: Marketplace, scope: Scope, store_id: UUID | None
) -> Credential | None:
    """The credential where the endpoint asks for one; where anyone may, whatever is sent along does not matter."""
    if "anyone" in declared.who:
        return None
    bearer = _bearer()
    if not bearer:
        raise Unauthorized("A credential is needed: Authorization: Bearer ...")
    try:
        return marketplace.credentials.authenticate(scope, marketplace.router, bearer, declared.who, store_id)
    except NotFound:
        raise Forbidden("The credential is of another store.") from None


def _bearer() -> str:
    """The credential that came with the request, empty where none did."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else ""


def _see_earlier_writes(scope: Scope, marketplace: Marketplace) -> None:
    scope.encode_positions = marketplace.tokens.encode
    # A client may hold more than one cookie of a name, for different paths or hosts: all that it has seen counts.
    for text in (*request.cookies.getlist(TOKEN_HEADER), request.headers.get(TOKEN_HEADER)):
        if text:
            scope.positions = merge(scope.positions, marketplace.tokens.decode(text))
    scope.carries_token = bool(scope.positions)
    bearer = _bearer()
    if bearer.startswith(REMEMBERED):
        scope.credential = bearer


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _SANE_REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    g.started = perf_counter()
    g.scope = g.route = g.admission = None
    g.is_routine = False
    logs.begin_request(g.request_id)


def _finish(response: Response) -> Response:
    """Write the headers that every answer has, count it and log it."""
    scope: Scope | None = g.scope
    headers = response.headers
    headers["X-Request-Id"] = g.request_id
    route = g.route or (request.url_rule.rule if request.url_rule else None)
    if g.admission is not None and g.admission.decision is not None:
        headers.update(limit_headers(g.admission.decision))
    if scope is not None:
        g.keep(scope)
        _tell(scope, response)
        if (
            response.status_code != HTTPStatus.TOO_MANY_REQUESTS
        ):  # what is refused for its rate is nobody's load
            g.count(scope)
        if request.method == "GET" and response.status_code < HTTPStatus.BAD_REQUEST:
            metrics.count_read(scope.served_by)
    seconds = perf_counter() - g.started
    shard = scope.route.shard if scope is not None and scope.route else None
    asked = shard if scope is not None and scope.statements else None
    metrics.observe_request(request.method, route, response.status_code, seconds, asked)
    if g.is_routine and response.status_code < HTTPStatus.BAD_REQUEST:
        return response  # each page asks once a second: the log would hold little else
    logs.access(
        request.method,
        request.path,
        route,
        response.status_code,
        seconds,
        store=_store_in_path(),
        shard=shard,
        node=", ".join(scope.served_by) if scope is not None and scope.served_by else None,
        spent=scope.seconds if scope is not None else {},
        sent=scope.sent if scope is not None else (),
    )
    return response


def _store_in_path() -> str | None:
    """The store that the request is about, in the one spelling that a log is searched for."""
    given = (request.view_args or {}).get("store_id")
    return given.lower() if given and _CANONICAL_UUID.fullmatch(given) else None


def _tell(scope: Scope, response: Response) -> None:
    """What the request met on its way: which node, how long, and up to where it wrote."""
    headers = response.headers
    if scope.served_by or response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        headers["X-Served-By"] = ", ".join(scope.served_by) or "cache"
    # A copy that a browser kept may be older than the client's own write: what has an ETag it asks about each time
    # (RFC 9111 section 5.2.2.4), the rest, keys and tokens among it, it does not keep.
    headers["Cache-Control"] = "no-cache" if "ETag" in headers else "no-store"
    if scope.seconds:
        headers["Server-Timing"] = ", ".join(
            f"{name};dur={seconds * 1000:.2f}" for name, seconds in scope.seconds.items()
        )
    if request.method not in ("GET", "HEAD") or (scope.carries_token and scope.raised):
        # On every answer to a write, also where it changed nothing: it hands on what the client had seen before. On
        # an answer to a read where the client keeps tokens, and has now seen more than its own says.
        token = scope.encode_positions(scope.positions)
        headers[TOKEN_HEADER] = token
        headers["Set-Cookie"] = (
            f"{TOKEN_HEADER}={token}; Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; SameSite=Lax"
        )


_encode = msgspec.json.Encoder().encode


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer whose document is built here and not by PostgreSQL."""
    return Answer(_encode(value), status)
