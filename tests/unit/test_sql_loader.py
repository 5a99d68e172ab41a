"""Named queries: what a file must look like, and what is said, at which line, where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import sql
from errors import QueryFileError
from sql.loader import load
from sql.schema import Schema

MIGRATION = """
CREATE TABLE products (store_id uuid, id uuid, title text);
CREATE FUNCTION fence_store(s uuid) RETURNS void LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION shout(t text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper(t);
"""

GOOD = """-- Products.

-- name: get_product
-- role: replica
-- returns: one
-- One product; its primary key
-- serves it.
SELECT title, '100 %%' -- the title
FROM products
WHERE store_id = %(store_id)s AND id = %(product_id)s::uuid AND title <> %(store_id)s::text;
-- That was all.

-- name: fence
-- role: primary
-- returns: none
-- The fence.
SELECT fence_store(%(store_id)s)
"""

BAD = {
    "an unknown header": ("-- name: a\n-- roll: primary\n", 2, "unknown header 'roll'"),
    "no role": ("-- name: a\n-- returns: one\n-- Why.\nSELECT 1", 1, "no header '-- role: primary|replica'"),
    "no returns": (
        "\n-- name: a\n-- role: primary\n-- Why.\nSELECT 1",
        2,
        "no header '-- returns: one|many|none'",
    ),
    "a header twice": ("-- name: a\n-- role: primary\n-- role: primary\n", 3, "'role' is here twice"),
    "a wrong role": ("-- name: a\n-- role: leader\n", 2, "role: 'leader' is not one of: primary, replica"),
    "a wrong returns": ("-- name: a\n-- role: primary\n-- returns: two\n", 3, "not one of: one, many, none"),
    "a wrong spans": (
        "-- name: a\n-- role: primary\n-- returns: one\n-- spans: yes\n",
        4,
        "not one of: stores",
    ),
    "a header below": (
        "-- name: a\n-- role: primary\n-- returns: one\n-- Why.\n-- spans: stores\n",
        5,
        "put it above",
    ),
    "a bad name": ("-- name: get-product\n", 1, "name 'get-product'"),
    "no name": ("-- name:\n", 1, "name ''"),
    "SQL without a header": ("SELECT 1;\n", 1, "begin the query with a line"),
    "no sentence": ("-- name: a\n-- role: primary\n-- returns: one\n\nSELECT 1", 4, "no sentence"),
    "no statement": ("$\n-- The end.\n", 6, "no SQL statement"),
    "a semicolon alone": ("$\n;\n", 6, "no SQL statement"),
    "two statements": ("$SELECT 1;\n\nSELECT 2;", 7, "a second statement"),
    "a syntax error": ("$SELECT 1\nFORM products", 6, "syntax error"),
    "an open quote": ("$SELECT 'a\nb", 5, "unterminated"),
    "a positional parameter": ("$SELECT\n%s", 6, "positional"),
    "a numbered parameter": ("$SELECT\n$1", 6, "name it"),
    "a lone percent sign": ("$SELECT 1\n% 2", 6, "a lone %"),
    "a percent sign at the end": ("$SELECT 1 --\n%", 6, "a lone %"),
    "another format": ("$SELECT %(a)b", 5, "write %(a)s"),
    "a cased parameter": ("$SELECT %(storeId)s", 5, "lower case"),
    "an empty parameter": ("$SELECT %()s", 5, "lower case"),
    "a parameter in quotes": ("$SELECT 1,\n '%(a)s'", 6, "inside quotes or a comment"),
    "a parameter in a comment": ("$SELECT 1\n-- not %(a)s\n", 6, "inside quotes or a comment"),
    "rows from a statement that gives none": (
        "$DELETE FROM products WHERE store_id = %(store_id)s",
        5,
        "no RETURNING",
    ),
    "a star in the answer": (
        "$SELECT 1, p.*\nFROM products AS p WHERE p.store_id = %(store_id)s",
        5,
        "name the columns",
    ),
    "a star in RETURNING": (
        "$DELETE FROM products WHERE store_id = %(store_id)s\nRETURNING *",
        6,
        "name the columns",
    ),
    "a star in UNION": ("$SELECT * FROM (VALUES (1)) AS v (n)\nUNION SELECT 1", 5, "name the columns"),
    "a query that leaves its store": ("$SELECT 1\nFROM products", 6, "not bound to one store"),
    "a name that is taken": (
        "$SELECT 1\n\n-- name: a\n-- role: primary\n-- returns: one\n-- Y.\nSELECT 1",
        7,
        "second time",
    ),
}

WRITES = [
    "INSERT INTO products (store_id) VALUES (%(store_id)s) RETURNING id",
    "UPDATE products SET title = '' WHERE store_id = %(store_id)s RETURNING id",
    "DELETE FROM products WHERE store_id = %(store_id)s RETURNING id",
    "SELECT 1 FROM products WHERE store_id = %(store_id)s FOR UPDATE",
    "SELECT 1 FROM products WHERE store_id = %(store_id)s FOR KEY SHARE SKIP LOCKED",
    "SELECT 1 FROM (SELECT 1 FROM products WHERE store_id = %(store_id)s FOR SHARE) AS x",
    "WITH x AS (DELETE FROM products WHERE store_id = %(store_id)s RETURNING id) SELECT id FROM x",
    "SELECT fence_store(%(store_id)s)",
    "SELECT 1 WHERE fence_store(%(store_id)s) IS NULL",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1)",
    "SELECT pg_catalog.nextval('x')",
    "SELECT pg_current_xact_id()",
    "SELECT pg_notify('a', 'b')",
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    folder = tmp_path_factory.mktemp("migrations")
    (folder / "0001_tables.sql").write_text(MIGRATION, encoding="utf-8")
    return Schema.read(folder)


def write(folder: Path, text: str, name: str = "products.sql", role: str = "primary") -> Path:
    header = f"-- name: a\n-- role: {role}\n-- returns: one\n-- Why; which index.\n"
    (folder / name).write_text(
        text.replace("$", header, 1) if text.startswith("$") else text, encoding="utf-8"
    )
    return folder


def test_queries_come_with_their_headers_their_sentence_and_their_parameters(
    tmp_path: Path, schema: Schema
) -> None:
    queries = load(write(tmp_path, GOOD), schema)
    product, fence = queries.values()
    assert (product.name, product.role, product.returns) == ("get_product", "replica", "one")
    assert product.about == "One product; its primary key serves it."
    assert product.parameters == {"store_id", "product_id"}
    assert (product.file, product.line) == (str(tmp_path / "products.sql"), 3)
    assert (fence.name, fence.returns, fence.line) == ("fence", "none", 13)


def test_the_text_is_the_statement_alone_and_names_its_query(tmp_path: Path, schema: Schema) -> None:
    text = load(write(tmp_path, GOOD), schema)["get_product"].text
    assert text.startswith("SELECT /* get_product */ title, '100 %%' -- the title\nFROM products")
    assert text.endswith("title <> %(store_id)s::text")


@pytest.mark.parametrize(("text", "line", "message"), BAD.values(), ids=BAD)
def test_a_malformed_query_is_refused_by_file_and_line(
    text: str, line: int, message: str, tmp_path: Path, schema: Schema
) -> None:
    with pytest.raises(QueryFileError) as refused:
        load(write(tmp_path, text), schema)
    assert str(refused.value).startswith(f"{tmp_path / 'products.sql'}:{line}: ")
    assert message in str(refused.value)


def test_a_name_is_taken_in_other_files_too(tmp_path: Path, schema: Schema) -> None:
    write(tmp_path, "$SELECT 1", "orders.sql")
    write(tmp_path, "$SELECT 1", "products.sql")
    with pytest.raises(
        QueryFileError, match=r"products\.sql:1: a is named a second time; the first is at .*orders\.sql:1"
    ):
        load(tmp_path, schema)


@pytest.mark.parametrize("text", WRITES)
def test_a_query_that_writes_or_locks_is_refused_for_a_replica(
    text: str, tmp_path: Path, schema: Schema
) -> None:
    load(write(tmp_path, f"${text}"), schema)
    with pytest.raises(QueryFileError, match=r"products\.sql:5: role: replica"):
        load(write(tmp_path, f"${text}", role="replica"), schema)


def test_a_function_that_does_not_write_may_run_on_a_replica(tmp_path: Path, schema: Schema) -> None:
    assert load(write(tmp_path, "$SELECT shout('a')", role="replica"), schema)


def test_an_unknown_name_is_answered_with_the_close_ones(tmp_path: Path, schema: Schema) -> None:
    queries = load(write(tmp_path, GOOD), schema)
    with pytest.raises(QueryFileError, match=r"no query is named 'get_produkt' .* is it get_product\?"):
        queries["get_produkt"]
    assert "get_produkt" not in queries


def test_a_table_of_the_catalog_is_no_tenants_table_whatever_its_columns(tmp_path: Path) -> None:
    folders = []
    for name, table in (("shard", "products"), ("catalog", "pins")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "0001_a.sql").write_text(f"CREATE TABLE {table} (store_id uuid)", encoding="utf-8")
        folders.append(folder)
    queries = tmp_path / "queries"
    queries.mkdir()
    assert load(write(queries, "$SELECT store_id FROM pins"), Schema.read(*folders))
    with pytest.raises(QueryFileError, match="products is not bound"):
        load(write(queries, "$SELECT id FROM products"), Schema.read(*folders))


def test_every_query_of_the_service_loads() -> None:
    assert len(sql.queries()) > 0
    for name, query in sql.queries().items():
        assert sql.query(name) is query
