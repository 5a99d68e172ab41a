"""Holding answers against `/openapi.json`: a session that lets no answer pass which is not described there.

Stricter than the document: a field it does not name is a mistake here; to a client it is a newer version.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import requests
from jsonschema import Draft202012Validator, FormatChecker

Json = dict[str, Any]


class Document:
    """The answers an OpenAPI document describes."""

    def __init__(self, document: Json) -> None:
        self._schemas = {"$defs": _strict(document["components"]["schemas"])}
        self._headers = document["components"]["headers"]
        self._paths = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path)), operations)
            # A path without parameters comes before one that would take its last part for one.
            for path, operations in sorted(document["paths"].items(), key=lambda item: item[0].count("{"))
        ]

    def check(self, answer: requests.Response) -> None:
        """Raises `AssertionError`. Where there is no such operation, the answer has to be a problem."""
        method, path = str(answer.request.method).lower(), urlsplit(str(answer.request.url)).path
        operations: Json = next((found for pattern, found in self._paths if pattern.fullmatch(path)), {})
        if method not in operations:
            described: Json = {
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            }
        else:
            responses = operations[method]["responses"]
            if str(answer.status_code) not in responses:
                raise AssertionError(f"{method} {path} answers {answer.status_code}: {answer.text[:500]}")
            described = responses[str(answer.status_code)]
        where = f"{method} {path} {answer.status_code}"
        self._check_headers(where, answer, described.get("headers", {}))
        self._check_body(where, answer, described.get("content", {}))

    def _check_headers(self, where: str, answer: requests.Response, headers: Json) -> None:
        for name, reference in headers.items():
            header = self._headers[reference["$ref"].rpartition("/")[2]]
            value = answer.headers.get(name)
            if value is None:
                if header["required"]:
                    raise AssertionError(f"{where} has no {name}")
                continue
            typed = int(value) if header["schema"].get("type") == "integer" else value
            self._validate(f"{where} {name}", typed, header["schema"])

    def _check_body(self, where: str, answer: requests.Response, content: Json) -> None:
        media_type = answer.headers.get("Content-Type", "").partition(";")[0]
        if not content:
            if answer.content:
                raise AssertionError(f"{where} has a body: {answer.text[:500]}")
            return
        if media_type not in content:
            raise AssertionError(f"{where} is {media_type}, not {', '.join(content)}")
        if media_type.endswith("json"):
            self._validate(where, answer.json(), content[media_type]["schema"])

    def _validate(self, where: str, value: object, schema: Json) -> None:
        text = _local(schema) | self._schemas
        errors = Draft202012Validator(text, format_checker=FormatChecker()).iter_errors(value)
        for error in errors:
            raise AssertionError(f"{where}: {error.json_path} {error.message}")


class DocumentedSession(requests.Session):
    """A `requests.Session` that checks each answer of the service at `base_url`; a path is taken below it."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.base_url = base_url
        self._document = _document_of(base_url)

    def request(self, method: str, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", 10)
        answer = super().request(method, f"{self.base_url}{url!s}", *args, **kwargs)
        self._document.check(answer)
        return answer


@cache  # a test has many sessions, and reading the document takes longer than most of what they ask
def _document_of(base_url: str) -> Document:
    return Document(requests.get(f"{base_url}/openapi.json", timeout=10).json())


def _local(schema: Any) -> Any:
    """The schema with its references turned to `$defs`."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/components/schemas/", "#/$defs/") if key == "$ref" else _local(value)
            for key, value in schema.items()
        }
    return [_local(item) for item in schema] if isinstance(schema, list) else schema


def _strict(schemas: Json) -> Json:
    """Schemas that take no property they do not name. A problem may have members of its own."""
    strict: Json = _local(schemas)
    for name, schema in strict.items():
        if "properties" in schema and name != "Problem":
            schema.setdefault("additionalProperties", False)
    return strict
