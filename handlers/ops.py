"""For the people and programs that run the service: health, figures, and the API's document."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from functools import partial

import msgspec
from flask import Blueprint, Response, abort, render_template, request
from werkzeug.wrappers import Response as AnyResponse

import metrics
from errors import Unavailable
from handlers import openapi, swagger
from handlers.assets import asset_answer, html_answer
from handlers.endpoint import Endpoint
from handlers.openapi_problems import PROBLEMS, problem_kinds
from operations.marketplace import Marketplace


class Ops:
    """The views. One object a worker."""

    def __init__(self, marketplace: Marketplace, endpoints: Sequence[Endpoint]) -> None:
        self._marketplace = marketplace
        document = openapi.document(endpoints)
        self._document = msgspec.json.encode(document)
        self._document_tag = hashlib.sha256(self._document).hexdigest()[:32]

    def healthz(self) -> Response:
        return Response(b'{"status":"ok"}', content_type="application/json")

    def readyz(self) -> Response:
        """200 where every shard's primary answers. Raises `Unavailable`, with the `shards` that do not."""
        answers = self._marketplace.ping_shards(self._marketplace.router.shards())
        silent = [shard for shard, answered in answers.items() if not answered]
        if silent:
            detail = f"No answer from the primary of {', '.join(silent)}."
            raise Unavailable(detail, retry_after_seconds=1, shards=silent)
        return Response(b'{"status":"ok"}', content_type="application/json")

    def metrics(self) -> Response:
        self._marketplace.refresh_metrics()
        return Response(metrics.render(), content_type=metrics.CONTENT_TYPE)

    def openapi(self) -> AnyResponse:
        response = Response(self._document, content_type="application/json")
        response.set_etag(self._document_tag)
        response.cache_control.no_cache = True
        return response.make_conditional(request)

    def docs(self) -> Response:
        names = {"style": swagger.STYLE, "script": swagger.SCRIPT, "start": swagger.START}
        parts = {key: {"name": name, "version": swagger.asset(name).version} for key, name in names.items()}
        # Swagger UI draws its icons from data: URLs; scripts and styles are files, and nothing is inline.
        policy = "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
        return html_answer(render_template("docs.html", **parts), policy)

    def problems(self) -> Response:
        """What each problem's `type` points at."""
        nonce = secrets.token_urlsafe(16)
        html = render_template("problems.html", nonce=nonce, kinds=problem_kinds(), texts=PROBLEMS)
        return html_answer(html, f"style-src 'nonce-{nonce}'; img-src data:")

    def docs_asset(self, name: str) -> Response:
        try:
            found = swagger.asset(name)
        except KeyError:
            abort(404)
        return asset_answer(found)


def blueprint(ops: Ops) -> Blueprint:
    """The routes of the views."""
    routes = Blueprint("ops", __name__, template_folder="templates")
    get = partial(routes.add_url_rule, methods=["GET"])
    get("/healthz", "healthz", ops.healthz)
    get("/readyz", "readyz", ops.readyz)
    get("/metrics", "metrics", ops.metrics)
    get("/openapi.json", "openapi", ops.openapi)
    get("/docs", "docs", ops.docs)
    get("/docs/problems", "problems", ops.problems)
    get("/docs/<name>", "docs_asset", ops.docs_asset)
    return routes
