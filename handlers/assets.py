"""Pages and the files they load: how each is read once, compressed once, and answered."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from flask import Response, request

from errors import ConfigurationError

STATIC = Path(__file__).parent / "static"

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and compressed. `version` changes with the content: its URL may be kept for ever."""

    content: bytes
    compressed: bytes
    media_type: str
    version: str


def read_asset(path: Path) -> Asset:
    """The file, ready to be answered; for a cache, since compressing a megabyte takes some 30 ms."""
    content = path.read_bytes()
    return Asset(
        content=content,
        compressed=gzip.compress(content, 6),
        media_type=_TYPES[path.suffix],
        version=hashlib.sha256(content).hexdigest()[:16],
    )


def packaged_file(package: str, name: str, missing: str) -> Path:
    """Where an installed package keeps its file of this name; the package is never imported.

    Raises `ConfigurationError`, saying what is `missing` then, where it is not installed.
    """
    try:
        files = distribution(package).files or ()
    except PackageNotFoundError as error:
        raise ConfigurationError(f"{package} is not installed: {missing}") from error
    return next(Path(str(file.locate())) for file in files if file.name == name)


def asset_answer(found: Asset) -> Response:
    """The file, compressed for who takes it so; to be kept for ever, under a URL that its version is part of."""
    zipped = request.accept_encodings.best_match(["gzip", "identity"]) == "gzip"
    response = Response(found.compressed if zipped else found.content, content_type=found.media_type)
    if zipped:
        response.content_encoding = "gzip"
    response.vary.add("Accept-Encoding")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def html_answer(html: str, policy: str) -> Response:
    """A page that may load what `policy` (directives of a Content-Security-Policy) names, and nothing else."""
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; {policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response
