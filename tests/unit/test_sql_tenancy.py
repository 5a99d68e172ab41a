"""The tenancy proof, statement by statement: what it lets through, and what it refuses, at which line."""

# ruff: noqa: E501  (a statement on one line is easier to compare with its neighbours than a wrapped one)

from __future__ import annotations

from pathlib import Path

import pytest

from sql.schema import Schema
from sql.statement import StatementError, parse
from sql.tenancy import check_tenancy

MIGRATION = """
CREATE TABLE stores (store_id uuid PRIMARY KEY, name text);
CREATE TABLE products (store_id uuid, id uuid, title text, stock bigint, PRIMARY KEY (store_id, id));
CREATE TABLE orders (store_id uuid, id uuid, status text, PRIMARY KEY (store_id, id));
CREATE TABLE order_items (store_id uuid, order_id uuid, product_id uuid, quantity bigint);
CREATE TABLE keys (store_id uuid, key text UNIQUE, PRIMARY KEY (store_id, key));
CREATE TABLE currencies (code text PRIMARY KEY);
CREATE VIEW cheap AS SELECT * FROM products;
CREATE TABLE late (id uuid);
ALTER TABLE late ADD COLUMN store_id uuid;
CREATE TABLE child (LIKE products);
CREATE FUNCTION fence(s uuid, epoch bigint) RETURNS void LANGUAGE sql AS 'SELECT 1 FROM stores WHERE store_id = s';
CREATE FUNCTION log_place() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN pg_last_wal_replay_lsn(); END';
CREATE FUNCTION elsewhere() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM products; END;
CREATE FUNCTION by_way_of() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN elsewhere(); END';
CREATE FUNCTION put_together() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN EXECUTE ''SELECT '' || ''1''; END';
CREATE FUNCTION document(p products) RETURNS text LANGUAGE sql STABLE RETURN p.title || '!';
"""

GOOD = {
    "a filter": "SELECT * FROM products WHERE store_id = %(store_id)s AND id = %(id)s",
    "the parameter on the left, cast": "SELECT * FROM products p WHERE %(store_id)s::uuid = p.store_id",
    "a row comparison": "SELECT * FROM products WHERE (store_id, id) = (%(store_id)s, %(id)s)",
    "no tenant's table": "SELECT code FROM currencies",
    "no table": "SELECT 1",
    "a system view": "SELECT pid FROM pg_stat_activity",
    "nested AND": "SELECT 1 FROM products WHERE (stock > 1 AND (store_id = %(store_id)s AND title = 'a'))",
    "an OR beside it": "SELECT 1 FROM products WHERE store_id = %(store_id)s AND (stock = 1 OR stock = 2)",
    "a join on the store": """SELECT * FROM orders o JOIN order_items i
        ON i.store_id = o.store_id AND i.order_id = o.id WHERE o.store_id = %(store_id)s""",
    "a chain, bound at its far end": """SELECT 1 FROM orders o, order_items i, products p
        WHERE p.store_id = i.store_id AND i.store_id = o.store_id AND o.store_id = %(store_id)s""",
    "USING": "SELECT 1 FROM orders JOIN order_items USING (store_id) WHERE store_id = %(store_id)s",
    "USING three times": """SELECT store_id FROM orders JOIN order_items USING (store_id)
        JOIN products USING (store_id) WHERE store_id = %(store_id)s""",
    "the missing side in ON": """SELECT * FROM orders o LEFT JOIN order_items i
        ON i.store_id = %(store_id)s AND i.order_id = o.id WHERE o.store_id = %(store_id)s""",
    "the missing side through the kept one": """SELECT * FROM orders o LEFT JOIN order_items i
        ON i.store_id = o.store_id WHERE o.store_id = %(store_id)s""",
    "a right join, mirrored": """SELECT * FROM order_items i RIGHT JOIN orders o
        ON i.store_id = o.store_id WHERE o.store_id = %(store_id)s""",
    "an inner join inside an outer one": """SELECT * FROM stores s LEFT JOIN
        (orders o JOIN order_items i ON i.store_id = o.store_id) ON o.store_id = s.store_id
        WHERE s.store_id = %(store_id)s""",
    "WHERE over an outer join": """SELECT * FROM orders o LEFT JOIN order_items i ON o.id = i.order_id
        WHERE o.store_id = %(store_id)s AND i.store_id = %(store_id)s""",
    "a correlated subquery": """SELECT (SELECT count(*) FROM order_items i WHERE i.store_id = o.store_id)
        FROM orders o WHERE o.store_id = %(store_id)s""",
    "EXISTS": """SELECT 1 FROM orders o WHERE o.store_id = %(store_id)s
        AND NOT EXISTS (SELECT 1 FROM order_items i WHERE (i.store_id, i.order_id) = (o.store_id, o.id))""",
    "IN a bound subquery": """SELECT 1 FROM orders WHERE (store_id, id) IN
        (SELECT i.store_id, i.order_id FROM order_items i WHERE i.store_id = %(store_id)s)""",
    "a bound scalar subquery": """SELECT 1 FROM orders o WHERE o.store_id =
        (SELECT s.store_id FROM stores s WHERE s.store_id = %(store_id)s)""",
    "LATERAL": """SELECT * FROM stores s CROSS JOIN LATERAL
        (SELECT * FROM products p WHERE p.store_id = s.store_id LIMIT 5) x WHERE s.store_id = %(store_id)s""",
    "a subquery's output": """SELECT * FROM (SELECT %(store_id)s::uuid AS store_id) me
        JOIN products p ON p.store_id = me.store_id""",
    "VALUES": """SELECT 1 FROM (VALUES (%(store_id)s, 1)) v(s, n) JOIN products p ON p.store_id = v.s""",
    "a WITH query's output": """WITH x AS (SELECT store_id AS sid, id FROM orders WHERE store_id = %(store_id)s)
        SELECT * FROM x JOIN order_items i ON i.store_id = x.sid AND i.order_id = x.id""",
    "a WITH query's star": """WITH x AS (SELECT * FROM orders WHERE store_id = %(store_id)s)
        SELECT * FROM x JOIN order_items i ON i.store_id = x.store_id""",
    "a WITH query with renamed columns": """WITH x(sid, n) AS (SELECT store_id, 1 FROM orders
        WHERE store_id = %(store_id)s) SELECT * FROM x JOIN products p ON p.store_id = x.sid""",
    "a WITH query that shadows a table": """WITH products AS (SELECT 1 AS n) SELECT n FROM products""",
    "both sides of UNION": """SELECT id FROM orders WHERE store_id = %(store_id)s UNION ALL
        SELECT id FROM products WHERE store_id = %(store_id)s""",
    "a UNION's output": """SELECT 1 FROM (SELECT store_id FROM orders WHERE store_id = %(store_id)s UNION
        SELECT %(store_id)s) u JOIN products p ON p.store_id = u.store_id""",
    "rows from a function": """SELECT l.id FROM unnest(%(ids)s::uuid[]) AS l(id)
        JOIN products p ON p.store_id = %(store_id)s AND p.id = l.id""",
    "INSERT VALUES": "INSERT INTO orders (id, store_id) VALUES (%(id)s, %(store_id)s::uuid)",
    "INSERT SELECT": """INSERT INTO order_items (store_id, product_id) SELECT p.store_id, p.id FROM products p
        WHERE p.store_id = %(store_id)s""",
    "INSERT of many rows": """INSERT INTO orders (store_id, id) SELECT %(store_id)s, x FROM unnest(%(i)s::uuid[]) x""",
    "upsert": """INSERT INTO keys AS k (store_id, key) VALUES (%(store_id)s, %(key)s)
        ON CONFLICT (store_id, key) DO UPDATE SET key = excluded.key WHERE k.store_id = excluded.store_id""",
    "ON CONFLICT DO NOTHING": """INSERT INTO keys (store_id, key) VALUES (%(store_id)s, 'a')
        ON CONFLICT DO NOTHING RETURNING key""",
    "UPDATE": "UPDATE products SET stock = stock - 1 WHERE store_id = %(store_id)s",
    "UPDATE FROM": """UPDATE products p SET stock = p.stock + i.quantity FROM order_items i
        WHERE p.store_id = %(store_id)s AND i.store_id = p.store_id AND i.product_id = p.id""",
    "DELETE": "DELETE FROM products WHERE store_id = %(store_id)s RETURNING id",
    "DELETE USING": """DELETE FROM order_items i USING orders o
        WHERE o.store_id = %(store_id)s AND (i.store_id, i.order_id) = (o.store_id, o.id)""",
    "writes in WITH": """WITH gone AS (DELETE FROM orders WHERE store_id = %(store_id)s RETURNING store_id, id),
        put AS (INSERT INTO keys (store_id, key) SELECT store_id, 'x' FROM gone)
        UPDATE products p SET stock = 0 FROM gone WHERE p.store_id = gone.store_id""",
    "a fence": "SELECT fence(%(store_id)s, %(epoch)s)",
    "a function that reads no table of a store's": "SELECT log_place()",
    "a fence with named arguments": "SELECT fence(s => %(store_id)s, epoch => 1)",
    "a function over its row": "SELECT document(p) FROM products p WHERE p.store_id = %(store_id)s",
    "FOR UPDATE": "SELECT 1 FROM products p WHERE p.store_id = %(store_id)s ORDER BY p.id FOR UPDATE OF p",
    "a recursive query": """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
        SELECT * FROM n JOIN products p ON p.store_id = %(store_id)s""",
}

# The marker @ stands at the beginning of the line that the refusal must name.
BAD = {
    "no filter": "@SELECT * FROM products",
    "another column": "SELECT *\n@FROM products WHERE id = %(store_id)s",
    "another parameter": "@SELECT * FROM products WHERE store_id = %(id)s",
    "a constant": "@SELECT * FROM products WHERE store_id = '0190b2c0-0000-7000-8000-000000000000'",
    "itself": "@SELECT * FROM products WHERE store_id = store_id",
    "under OR": "@SELECT * FROM products WHERE store_id = %(store_id)s OR true",
    "under NOT": "@SELECT * FROM products WHERE NOT store_id = %(store_id)s",
    "under CASE": "@SELECT * FROM products WHERE CASE WHEN stock > 0 THEN store_id = %(store_id)s ELSE true END",
    "in a function": "@SELECT * FROM products WHERE coalesce(store_id = %(store_id)s, true)",
    "IS NOT DISTINCT FROM": "@SELECT * FROM products WHERE store_id IS NOT DISTINCT FROM %(store_id)s",
    "another operator": "@SELECT * FROM products WHERE store_id >= %(store_id)s",
    "another schema's operator": "@SELECT * FROM products WHERE store_id OPERATOR(public.=) %(store_id)s",
    "= ANY": "@SELECT * FROM products WHERE store_id = ANY (%(store_id)s)",
    "IN": "@SELECT * FROM products WHERE store_id IN (%(store_id)s, %(other)s)",
    "BETWEEN": "@SELECT * FROM products WHERE store_id BETWEEN %(store_id)s AND %(other)s",
    "a cast column": "@SELECT * FROM products WHERE store_id::text = %(store_id)s",
    "a computed parameter": "@SELECT * FROM products WHERE store_id = coalesce(%(store_id)s, store_id)",
    "another cast": "@SELECT * FROM products WHERE store_id = %(store_id)s::text",
    "HAVING": "@SELECT store_id FROM products GROUP BY store_id HAVING store_id = %(store_id)s",
    "an aggregate's FILTER": "@SELECT count(*) FILTER (WHERE store_id = %(store_id)s) FROM products",
    "the target list": "@SELECT store_id = %(store_id)s FROM products",
    "one of two": "SELECT 1 FROM orders o,\n@order_items i WHERE o.store_id = %(store_id)s AND i.order_id = o.id",
    "the same table again": "SELECT 1 FROM orders a,\n@orders b WHERE a.store_id = %(store_id)s",
    "bound to each other only": "@SELECT 1 FROM orders o JOIN order_items i ON i.store_id = o.store_id",
    "the kept side in ON": """@SELECT 1 FROM orders o LEFT JOIN order_items i
        ON o.store_id = %(store_id)s AND i.store_id = %(store_id)s""",
    "the kept side through the missing one": """@SELECT 1 FROM orders o LEFT JOIN order_items i
        ON i.store_id = o.store_id AND i.store_id = %(store_id)s""",
    "the kept side of a right join": """SELECT 1 FROM orders o
@       RIGHT JOIN order_items i ON o.store_id = %(store_id)s AND i.store_id = o.store_id""",
    "a full join's ON": """@SELECT 1 FROM orders o FULL JOIN order_items i
        ON o.store_id = %(store_id)s AND i.store_id = o.store_id""",
    "a left join that binds nothing": """SELECT 1 FROM orders o
@       LEFT JOIN order_items i ON i.order_id = o.id WHERE o.store_id = %(store_id)s""",
    "CROSS JOIN": "SELECT 1 FROM orders o\n@CROSS JOIN products p WHERE o.store_id = %(store_id)s",
    "NATURAL JOIN": "@SELECT 1 FROM orders NATURAL JOIN order_items WHERE store_id = %(store_id)s",
    "USING another column": """SELECT 1 FROM orders o
@       JOIN products p USING (id) WHERE o.store_id = %(store_id)s""",
    "FULL JOIN USING": "@SELECT 1 FROM orders FULL JOIN order_items USING (store_id) WHERE store_id = %(store_id)s",
    "an aliased join": """SELECT 1 FROM products p WHERE p.store_id = %(store_id)s AND EXISTS (
@       SELECT 1 FROM (orders o JOIN currencies c ON true) AS x WHERE o.store_id = %(store_id)s)""",
    "renamed columns": "@SELECT 1 FROM products AS p(id, store_id) WHERE p.store_id = %(store_id)s",
    "a scalar subquery": """SELECT 1, (
@       SELECT count(*) FROM order_items i) FROM orders o WHERE o.store_id = %(store_id)s""",
    "a subquery's own alias shadows": """SELECT 1 FROM products p WHERE p.store_id = %(store_id)s AND EXISTS (
@       SELECT 1 FROM orders o, order_items p WHERE p.store_id = %(store_id)s)""",
    "an inner name that binds the outer only": """SELECT 1 FROM products p WHERE p.store_id = %(store_id)s AND EXISTS (
@       SELECT 1 FROM orders o WHERE p.store_id = %(store_id)s)""",
    "a filter outside of the subquery": """SELECT * FROM (
@       SELECT * FROM products LIMIT 5) x WHERE x.store_id = %(store_id)s""",
    "a filter outside of the WITH query": """WITH x AS (
@       SELECT * FROM products) SELECT * FROM x WHERE x.store_id = %(store_id)s""",
    "an unbound WITH query as reason": """WITH x AS (SELECT %(id)s AS store_id) SELECT 1
@       FROM x JOIN products p ON p.store_id = x.store_id""",
    "an unused WITH query": """WITH x AS (
@       SELECT * FROM orders) SELECT 1 FROM products WHERE store_id = %(store_id)s""",
    "a table behind a WITH query's name": """WITH products AS (SELECT 1)
@       SELECT * FROM public.products""",
    "inside the WITH query that shadows": """WITH products AS (
@       SELECT * FROM products) SELECT * FROM products""",
    "a WITH query out of scope": """SELECT * FROM (WITH products AS (SELECT 1) SELECT * FROM products) x,
@       products""",
    "a column alias that lies": """WITH x AS (SELECT id AS store_id FROM orders WHERE store_id = %(store_id)s)
@       SELECT 1 FROM products p JOIN x ON p.store_id = x.store_id""",
    "columns renamed over": """SELECT 1 FROM (SELECT store_id, id FROM orders WHERE store_id = %(store_id)s) x(id, store_id)
@       JOIN products p ON p.store_id = x.store_id""",
    "two columns of one name": """SELECT 1 FROM (SELECT store_id, id AS store_id FROM orders WHERE store_id = %(store_id)s) x
@       JOIN products p ON p.store_id = x.store_id""",
    "an aggregate of the store": """SELECT 1 FROM (SELECT max(store_id) AS store_id FROM orders WHERE store_id = %(store_id)s) x
@       JOIN products p ON p.store_id = x.store_id""",
    "the right branch of UNION": """SELECT id FROM orders WHERE store_id = %(store_id)s UNION
@       SELECT id FROM products""",
    "the left branch of EXCEPT": "@SELECT id FROM orders EXCEPT SELECT id FROM products WHERE store_id = %(store_id)s",
    "a UNION with an unbound branch as reason": """SELECT 1 FROM (SELECT %(store_id)s::uuid AS s UNION SELECT %(id)s) u
@       JOIN products p ON p.store_id = u.s""",
    "a subquery after UNION": """SELECT 1 UNION SELECT 2 ORDER BY 1 LIMIT (
@       SELECT count(*) FROM products)""",
    "ORDER BY": """SELECT 1 FROM orders WHERE store_id = %(store_id)s ORDER BY (
@       SELECT count(*) FROM products)""",
    "LIMIT": "SELECT 1 LIMIT (\n@SELECT count(*) FROM products)",
    "a window": "SELECT sum(1) OVER (ORDER BY (\n@SELECT count(*) FROM products)) FROM currencies",
    "a function's argument": "SELECT * FROM generate_series(1, (\n@SELECT count(*) FROM products)) g",
    "JSON_ARRAY": "SELECT JSON_ARRAY(\n@SELECT title FROM products)",
    "ARRAY": "SELECT ARRAY(\n@SELECT title FROM products)",
    "LATERAL, unbound sibling": """SELECT 1 FROM currencies c CROSS JOIN LATERAL (
@       SELECT * FROM products p WHERE p.title = c.code) x""",
    "a sibling without LATERAL": """SELECT 1 FROM stores s, (
@       SELECT * FROM products p WHERE p.store_id = s.store_id) x WHERE s.store_id = %(store_id)s""",
    "a later sibling": """SELECT 1 FROM LATERAL (
@       SELECT * FROM products p WHERE p.store_id = s.store_id) x, stores s WHERE s.store_id = %(store_id)s""",
    "a reason that needs itself": """@SELECT 1 FROM orders o,
        LATERAL (SELECT i.store_id FROM order_items i WHERE i.store_id = o.store_id) x
        WHERE o.store_id = x.store_id""",
    "a recursive query's own output": """WITH RECURSIVE t AS (SELECT store_id FROM orders WHERE store_id = %(store_id)s
@       UNION SELECT o.store_id FROM orders o JOIN t ON o.store_id = t.store_id) SELECT 1 FROM t""",
    "SELECT INTO": "SELECT id\n@INTO copy FROM products WHERE store_id = %(store_id)s",
    "ONLY": "@SELECT * FROM ONLY products",
    "TABLE": "@TABLE products",
    "TABLESAMPLE": "@SELECT * FROM products TABLESAMPLE system (1)",
    "a quoted name": '@SELECT * FROM "products"',
    "a view": "@SELECT * FROM cheap",
    "a column that came later": "@SELECT * FROM late",
    "a table made LIKE another": "@SELECT * FROM child",
    "an unknown table": "@SELECT * FROM prodcuts",
    "an ambiguous name": "@SELECT 1 FROM orders, products WHERE store_id = %(store_id)s",
    "a name that a function may have": "@SELECT 1 FROM products, json_populate_record(null::orders, '{}') WHERE store_id = %(store_id)s",
    "INSERT without the store": "@INSERT INTO orders (id) VALUES (%(id)s)",
    "INSERT with another's": "@INSERT INTO orders (store_id, id) VALUES (%(id)s, %(store_id)s)",
    "INSERT without columns": "@INSERT INTO orders VALUES (%(store_id)s, %(id)s)",
    "INSERT DEFAULT VALUES": "@INSERT INTO orders DEFAULT VALUES",
    "INSERT with DEFAULT": "@INSERT INTO orders (store_id, id) VALUES (DEFAULT, %(id)s)",
    "INSERT of a second row": "@INSERT INTO orders (store_id) VALUES (%(store_id)s), (%(id)s)",
    "INSERT SELECT from all": "@INSERT INTO orders (store_id, id)\nSELECT store_id, id FROM products",
    "INSERT SELECT the wrong column": """@INSERT INTO orders (store_id, id)
        SELECT id, store_id FROM products WHERE store_id = %(store_id)s""",
    "INSERT SELECT star": "@INSERT INTO orders (store_id, id) SELECT * FROM products WHERE store_id = %(store_id)s",
    "upsert over another's row": """INSERT INTO keys (store_id, key) VALUES (%(store_id)s, 'a')
@       ON CONFLICT (key) DO UPDATE SET key = 'b'""",
    "upsert by constraint": """INSERT INTO keys (store_id, key) VALUES (%(store_id)s, 'a')
@       ON CONFLICT ON CONSTRAINT keys_key_key DO UPDATE SET key = 'b'""",
    "upsert to another store": """INSERT INTO keys (store_id, key) VALUES (%(store_id)s, 'a')
@       ON CONFLICT (store_id, key) DO UPDATE SET store_id = %(other)s""",
    "upsert with a subquery": """INSERT INTO keys (store_id, key) VALUES (%(store_id)s, 'a')
        ON CONFLICT (store_id, key) DO UPDATE SET key = (
@       SELECT title FROM products LIMIT 1)""",
    "RETURNING a subquery": """INSERT INTO keys (store_id, key) VALUES (%(store_id)s, 'a') RETURNING (
@       SELECT count(*) FROM orders)""",
    "UPDATE of all": "@UPDATE products SET stock = 0",
    "UPDATE bound on FROM only": """@UPDATE products p SET stock = 0 FROM orders o
        WHERE o.store_id = %(store_id)s AND p.id = o.id""",
    "UPDATE FROM another's": """UPDATE products p SET stock = 0
@       FROM orders o WHERE p.store_id = %(store_id)s AND p.id = o.id""",
    "UPDATE that gives a row away": "@UPDATE products SET store_id = %(other)s WHERE store_id = %(store_id)s",
    "UPDATE of several columns at once": "@UPDATE products SET (store_id, id) = (SELECT 1, 2) WHERE store_id = %(store_id)s",
    "UPDATE with a self-join": "@UPDATE products SET stock = 0 FROM products p WHERE p.store_id = %(store_id)s",
    "DELETE of all": "@DELETE FROM products",
    "DELETE USING another's": """DELETE FROM order_items i
@       USING orders o WHERE i.store_id = %(store_id)s AND o.id = i.order_id""",
    "a write in WITH": "WITH x AS (\n@DELETE FROM products RETURNING id) SELECT 1 FROM x",
    "MERGE": "@MERGE INTO products p USING orders o ON p.store_id = %(store_id)s WHEN MATCHED THEN DELETE",
    "TRUNCATE": "@TRUNCATE products",
    "COPY": "@COPY products TO STDOUT",
    "a function without its store": "@SELECT fence(%(id)s, 1)",
    "a function that reads another table": "@SELECT elsewhere()",
    "a function that calls one that does": "@SELECT by_way_of()",
    "a function that runs what it puts together": "@SELECT put_together()",
    "a function as a row source": "SELECT 1\n@FROM fence(%(id)s, 1)",
    "a function as a column": "SELECT\n@p.fence FROM products p WHERE p.store_id = %(store_id)s",
    "a name that a function may go by": """SELECT 1 FROM stores generate_series
        WHERE generate_series.store_id = %(store_id)s AND EXISTS (
@       SELECT 1 FROM generate_series(1, 2), products p WHERE p.store_id = generate_series.store_id)""",
    "a neighbour that ON does not see": """SELECT 1 FROM (SELECT %(id)s::uuid AS store_id) s WHERE EXISTS (
        SELECT 1 FROM stores s,
@       currencies c JOIN order_items i ON i.store_id = s.store_id WHERE s.store_id = %(store_id)s)""",
    "SQL in a string": "@SELECT query_to_xml('SELECT * FROM products', true, true, '')",
}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    folder: Path = tmp_path_factory.mktemp("migrations")
    (folder / "0001_tables.sql").write_text(MIGRATION, encoding="utf-8")
    return Schema.read(folder)


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_query_that_stays_in_its_store_loads(text: str, schema: Schema) -> None:
    check_tenancy(parse(text), schema, spans_stores=False)


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_query_that_may_leave_its_store_is_refused_at_its_line(text: str, schema: Schema) -> None:
    line = next(number for number, line in enumerate(text.splitlines()) if line.startswith("@"))
    with pytest.raises(StatementError) as refused:
        check_tenancy(parse(text.replace("@", "")), schema, spans_stores=False)
    assert refused.value.line == line, str(refused.value)


def test_the_header_spans_switches_the_proof_off(schema: Schema) -> None:
    check_tenancy(parse("SELECT * FROM products"), schema, spans_stores=True)


def test_the_header_spans_is_refused_where_it_is_not_needed(schema: Schema) -> None:
    statement = parse("SELECT * FROM products WHERE store_id = %(store_id)s")
    with pytest.raises(StatementError, match="remove the header"):
        check_tenancy(statement, schema, spans_stores=True)


def test_the_refusal_says_which_reference_and_what_to_add(schema: Schema) -> None:
    with pytest.raises(StatementError, match=r"products AS p .* add p\.store_id = %\(store_id\)s"):
        check_tenancy(parse("SELECT 1 FROM products AS p"), schema, spans_stores=False)
