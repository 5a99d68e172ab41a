"""Errors as RFC 9457's problem+json: every answer that is not 2xx or 3xx."""

from __future__ import annotations

import math
from urllib.parse import quote

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

import logs
from errors import ApiError

logger = logs.get_logger("problems")

CONTENT_TYPE = "application/problem+json"


def init_app(app: Flask) -> None:
    app.register_error_handler(ApiError, _api_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def problem(
    status: int, title: str, detail: str, *, kind: str = "about:blank", **members: object
) -> Response:
    """A problem document as a response; `kind` is its `type`."""
    document = {
        "type": kind,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": quote(request.path),
        **members,
    }
    return Response(msgspec.json.encode(document), status, content_type=CONTENT_TYPE)


def _api_error(error: ApiError) -> Response:
    members = {**error.members, **({"errors": list(error.errors)} if error.errors else {})}
    response = problem(error.status, error.title, error.detail, kind=error.type, **members)
    response.headers.extend(error.headers)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    if error.status == 401:  # noqa: PLR2004
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status >= 500:  # noqa: PLR2004
        logger.warning("refused", status=error.status, detail=error.detail, cause=repr(error.__cause__))
    return response


def _http_error(error: HTTPException) -> Response:
    """What Flask raises by itself: an unknown path, a wrong method."""
    status = error.code or 500
    details = {
        404: "There is nothing at this path.",
        405: f"{request.method} is not something one can do here.",
    }
    response = problem(status, error.name, details.get(status, error.description or error.name))
    for name, value in error.get_headers(request.environ):
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return problem(500, "Internal Server Error", "Something went wrong here. The log has it by X-Request-Id.")
