"""The Swagger UI of an installed package, served by this service: to read and try the API needs no network.

The package is found by its metadata and never imported: only its static files are of use here.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from errors import ConfigurationError

DISTRIBUTION = "flask-swagger-ui"
SCRIPT, STYLE, START = "swagger-ui-bundle.js", "swagger-ui.css", "docs.js"

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and compressed. `version` changes with the content: its URL may be kept for ever."""

    content: bytes
    compressed: bytes
    media_type: str
    version: str


@cache
def asset(name: str) -> Asset:
    """The file of this name. Raises `KeyError` where there is none, `ConfigurationError` with no package."""
    content = _path(name).read_bytes()
    return Asset(
        content=content,
        # Once a worker, when somebody first reads the page: 1.7 MB become 0.45 MB.
        compressed=gzip.compress(content, 6),
        media_type=_TYPES[Path(name).suffix],
        version=hashlib.sha256(content).hexdigest()[:16],
    )


def _path(name: str) -> Path:
    if name == START:
        return Path(__file__).parent / "static" / START
    if name not in (SCRIPT, STYLE):
        raise KeyError(name)
    try:
        files = distribution(DISTRIBUTION).files or ()
    except PackageNotFoundError as error:
        raise ConfigurationError(f"{DISTRIBUTION} is not installed: /docs has no Swagger UI") from error
    return next(Path(str(file.locate())) for file in files if file.name == name)
