"""SQL: the queries the service runs, its migrations, and what a person pastes into psql.

`query(name)` gives a named query of `sql/queries/`. All are loaded and checked once, when this package is
imported: a malformed one stops the start. The folders: `queries/` (loader.py says the form), `migrations/`
for each shard and `catalog/` for the catalog (migrate.py applies both), `inspect/`.
"""

from __future__ import annotations

from pathlib import Path

from sql.loader import Queries, Query, load
from sql.schema import Schema

FOLDER = Path(__file__).resolve().parent
MIGRATIONS = FOLDER / "migrations"
CATALOG_MIGRATIONS = FOLDER / "catalog"

_queries = load(FOLDER / "queries", Schema.read(MIGRATIONS, CATALOG_MIGRATIONS))


def query(name: str) -> Query:
    """The query of this name; `QueryFileError`, naming the close ones, where there is none."""
    return _queries[name]


def queries() -> Queries:
    """Every query by name."""
    return _queries
