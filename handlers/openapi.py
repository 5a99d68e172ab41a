"""The OpenAPI 3.1 document, written from the endpoints' declarations: what checks a request describes it.

Source: https://spec.openapis.org/oas/v3.1.1.html; its schemas are JSON Schema 2020-12, which msgspec writes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from config import ROOT
from errors import (
    ApiError,
    BadRequest,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from handlers.endpoint import Endpoint
from handlers.openapi_parts import (
    EXAMPLES,
    HEADERS,
    JSON_VALUE,
    PARAMETERS,
    SECURITY_SCHEMES,
    TAGS,
    TOGETHER,
    Json,
    reference,
)
from handlers.openapi_problems import Problem, problem_answer

_ABOUT = """\
A marketplace of many stores on PostgreSQL shards.

Every identifier is a UUIDv7, every time RFC 3339 in UTC, every amount an integer in the currency's minor
unit. Lists are paged by keyset: follow `next_cursor`, or `Link` with `rel="next"`.

Whatever is not 2xx or 3xx is `application/problem+json` (RFC 9457). An unknown path is 404; a method that a
path does not take is 405, with `Allow`.

An answer to a write carries `Consistency-Token`; a later request that carries it sees that write, and so does one with
the same session token or merchant key. An answer to a read carries it where the request did and the read has seen more.
"""


def document(endpoints: Sequence[Endpoint]) -> Json:
    """The whole document, as it is served on `/openapi.json`."""
    schemas = _schemas(endpoints)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Infinite Scaling marketplace", "version": version(), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "security": [],
        "paths": paths | _OPS_PATHS,
        "components": {
            "schemas": {
                name: schema for name, schema in schemas.items() if name not in _query_names(endpoints)
            },
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def _schemas(endpoints: Iterable[Endpoint]) -> dict[str, Json]:
    types: list[Any] = [Problem]
    for endpoint in endpoints:
        declared = (endpoint.body, endpoint.query, endpoint.answer, endpoint.accepted)
        types += [kind for kind in declared if kind is not None]
    _, schemas = msgspec.json.schema_components(
        list(dict.fromkeys(types)), ref_template="#/components/schemas/{name}"
    )
    schemas["JsonValue"] = JSON_VALUE  # which `attributes` refers to
    return {name: schema | TOGETHER.get(name, {}) for name, schema in schemas.items()}


def _query_names(endpoints: Iterable[Endpoint]) -> set[str]:
    """Query Structs are spelled out as parameters; they are no schemas of their own."""
    return {endpoint.query.__name__ for endpoint in endpoints if endpoint.query is not None}


def _operation(endpoint: Endpoint, schemas: Mapping[str, Json]) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [_tag(endpoint.path)],
        "security": _security(endpoint),
        "parameters": _parameters(endpoint, schemas),
        "responses": _responses(endpoint),
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": not endpoint.body_optional,
            "content": {
                "application/json": {
                    "schema": reference("schemas", endpoint.body.__name__),
                    "example": body_example(endpoint.body),
                }
            },
        }
    return operation


def _tag(path: str) -> str:
    """ "/v1/stores/{store_id}/cart/items/{product_id}" is about the cart."""
    if path.startswith("/v1/admin"):
        return "operator"
    parts = path.split("/")[4:]
    return parts[0] if parts and parts[0] in TAGS else "stores"


def _security(endpoint: Endpoint) -> list[Json]:
    if "anyone" in endpoint.who:
        return []
    return [{scheme: []} for scheme in SECURITY_SCHEMES if scheme in endpoint.who]


def _parameters(endpoint: Endpoint, schemas: Mapping[str, Json]) -> list[Json]:
    names = re.findall(r"{(\w+)}", endpoint.path)
    query = _query_parameters(schemas[endpoint.query.__name__]) if endpoint.query is not None else []
    headers = dict.fromkeys((*endpoint.request_headers, "Consistency-Token", "X-Request-Id"))
    return [
        *(reference("parameters", name) for name in names),
        *query,
        *(reference("parameters", name) for name in headers),
    ]


def _query_parameters(schema: Json) -> list[Json]:
    parameters = []
    for name, declared in schema["properties"].items():
        kind = dict(declared)
        # `| None` says "may be left out"; a query string has no null.
        choices = [choice for choice in kind.pop("anyOf", []) if choice != {"type": "null"}]
        if len(choices) == 1:
            kind |= choices[0]
        if kind.get("default", ...) is None:
            del kind["default"]
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if "description" in kind:
            parameter["description"] = kind.pop("description")
        parameters.append(parameter | {"schema": kind})
    return parameters


def body_example(body: type[msgspec.Struct]) -> Json:
    """A body that is accepted as it stands: the fields that must be there, with their own examples."""
    schema = msgspec.json.schema_components([body])[1][body.__name__]
    fields = schema["properties"]
    return EXAMPLES.get(body.__name__) or {name: fields[name]["examples"][0] for name in schema["required"]}


def _responses(endpoint: Endpoint) -> dict[str, Json]:
    responses = {str(endpoint.status): _success(endpoint, endpoint.status, endpoint.answer)}
    for status in endpoint.other_statuses:
        responses[str(status)] = _success(endpoint, status, endpoint.answer)
    if endpoint.accepted is not None:
        begun = _success(endpoint, HTTPStatus.ACCEPTED, endpoint.accepted)
        begun["headers"] |= {name: reference("headers", name) for name in endpoint.accepted_headers}
        responses[str(int(HTTPStatus.ACCEPTED))] = begun
    problems: dict[int, list[type[ApiError]]] = {}
    for error in dict.fromkeys((*_usual_errors(endpoint), *endpoint.errors)):
        problems.setdefault(error.status, []).append(error)
    return responses | {str(status): problem_answer(kinds) for status, kinds in sorted(problems.items())}


def _success(endpoint: Endpoint, status: int, answer: Any) -> Json:
    headers = [
        "X-Request-Id",
        "X-Served-By",
        "Server-Timing",
        "RateLimit-Policy",
        "RateLimit",
        "Consistency-Token",
    ]
    headers += endpoint.answer_headers
    response: Json = {
        "description": HTTPStatus(status).phrase,
        "headers": {name: reference("headers", name) for name in dict.fromkeys(headers)},
    }
    if answer is not None and status != HTTPStatus.NOT_MODIFIED:
        schema = reference("schemas", answer.__name__)
        response["content"] = {"application/json": {"schema": schema}}
    return response


def _usual_errors(endpoint: Endpoint) -> list[type[ApiError]]:
    """What an endpoint of its kind answers without saying so."""
    usual: list[type[ApiError]] = [TooManyRequests, Unavailable]
    if endpoint.body is not None:
        usual += [BadRequest, PayloadTooLarge, UnsupportedMediaType]
    if endpoint.query is not None or endpoint.request_headers:
        usual.append(BadRequest)
    if "anyone" not in endpoint.who:
        usual += [Unauthorized, Forbidden]
    if "{" in endpoint.path:
        usual.append(NotFound)
    return usual


def _ops(
    name: str, summary: str, media_type: str, schema: Json, errors: Sequence[type[ApiError]] = ()
) -> Json:
    responses: dict[str, Json] = {
        "200": {"description": summary, "content": {media_type: {"schema": schema}}},
        **{str(error.status): problem_answer([error]) for error in errors},
    }
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "tags": ["ops"],
            "security": [],
            "responses": responses,
        }
    }


_STATUS_OK = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
_TEXT = {"type": "string"}

_OPS_PATHS: dict[str, Json] = {
    "/healthz": _ops("healthz", "The process lives", "application/json", _STATUS_OK),
    "/readyz": _ops("readyz", "Every shard's primary answers", "application/json", _STATUS_OK, [Unavailable]),
    "/metrics": _ops("metrics", "Figures for Prometheus, of all workers together", "text/plain", _TEXT),
    "/openapi.json": _ops("openapi", "This document", "application/json", {"type": "object"}),
    "/docs": _ops("docs", "This document, to read and try", "text/html", _TEXT),
    "/": _ops("home", "What runs here, for people", "text/html", _TEXT),
}
