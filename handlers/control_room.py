"""The control room: the page at `/`, and the files it loads. What it shows it asks `GET /live` for, each second.

The page itself knows nothing of the cluster: it opens at once whatever is broken, and says then what is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from flask import Blueprint, Response, abort, render_template

from handlers.assets import STATIC, Asset, asset_answer, html_answer, packaged_file, read_asset

# The wheel of chartkick holds Chart.js 4 with its licences (docs/decisions/0022-control-room.md).
CHARTS_PACKAGE, CHARTS = "chartkick", "Chart.bundle.js"

# Scripts and styles are files, and nothing is inline: a store's name or an error's text cannot become either.
_POLICY = "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"


@dataclass(frozen=True, slots=True)
class _Files:
    """All that the page loads, by name. `version` changes with any of them, and stands in the URL of each."""

    paths: dict[str, Path]
    version: str


@cache
def _files() -> _Files:
    own = sorted((STATIC / "control_room").glob("*.*s"))
    paths = {path.name: path for path in own}
    paths[CHARTS] = packaged_file(CHARTS_PACKAGE, CHARTS, "the control room has no charts")
    # One version for all: a module names the next one without a version, relative to its own URL.
    digest = hashlib.sha256()
    for name, path in paths.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return _Files(paths, digest.hexdigest()[:16])


@cache
def _asset(name: str) -> Asset:
    return read_asset(_files().paths[name])


def page() -> Response:
    files = _files()
    names = [name for name in files.paths if name != CHARTS]
    html = render_template(
        "control_room.html",
        path=f"/control-room/{files.version}",
        charts=CHARTS,
        styles=[name for name in names if name.endswith(".css")],
        modules=[name for name in names if name.endswith(".js")],
    )
    return html_answer(html, _POLICY)


def asset(version: str, name: str) -> Response:
    """A file of the present version; of any other there is none here."""
    files = _files()
    if version != files.version or name not in files.paths:
        abort(404)
    return asset_answer(_asset(name))


def blueprint() -> Blueprint:
    """The routes of the views."""
    routes = Blueprint("control_room", __name__, template_folder="templates")
    get = partial(routes.add_url_rule, methods=["GET"])
    get("/", "page", page)
    get("/control-room/<version>/<name>", "asset", asset)
    return routes
