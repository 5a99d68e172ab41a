"""The Swagger UI of an installed package, served by this service: to read and try the API needs no network."""

from __future__ import annotations

from functools import cache

from handlers.assets import STATIC, Asset, packaged_file, read_asset

DISTRIBUTION = "flask-swagger-ui"
SCRIPT, STYLE, START = "swagger-ui-bundle.js", "swagger-ui.css", "docs.js"


@cache
def asset(name: str) -> Asset:
    """The file of this name. Raises `KeyError` where there is none, `ConfigurationError` with no package.

    Read once a worker, when somebody first reads the page: 1.7 MB become 0.45 MB.
    """
    if name == START:
        return read_asset(STATIC / START)
    if name not in (SCRIPT, STYLE):
        raise KeyError(name)
    return read_asset(packaged_file(DISTRIBUTION, name, "/docs has no Swagger UI"))
