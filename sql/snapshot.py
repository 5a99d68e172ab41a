"""What a database's schema is: one line of words for each object, and their hash.

The migration runner writes down what it left behind; a change by hand then shows as a difference, in words,
and so does one between two shards. The definitions come from the server's own pg_get_...def functions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, LiteralString

from psycopg import Connection

# Object, such as "column public.products.price", to its definition.
Snapshot = Mapping[str, str]

_WITH_COLUMNS = ("table ", "view ", "type ")

BOOKKEEPING = ("schema_migrations", "schema_snapshot")

# In search_path nothing but pg_catalog, so that every name is written with its schema. What an extension made
# is left out: the extension itself is listed. So are NOT NULL constraints: columns say it, and only
# PostgreSQL 18 names them.
_OBJECTS: LiteralString = """
WITH spaces AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), extension_owned AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relations AS (
    SELECT c.*, format('%%I.%%I', s.nspname, c.relname) AS name
    FROM pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
    WHERE c.relname <> ALL (%(bookkeeping)s)
      AND NOT EXISTS (SELECT FROM extension_owned WHERE classid = 'pg_class'::regclass AND objid = c.oid)
), tables AS (
    SELECT * FROM relations WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'c')
)
SELECT CASE WHEN relkind IN ('v', 'm') THEN 'view ' WHEN relkind = 'c' THEN 'type ' ELSE 'table ' END || name,
       concat_ws(' ', relkind, relpersistence, reloptions::text,
                 CASE WHEN relrowsecurity THEN 'row security' END,
                 pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid),
                 CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END)
FROM tables
UNION ALL
SELECT format('column %%s.%%I', t.name, a.attname),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                 CASE WHEN a.attgenerated <> '' THEN 'generated ' || a.attgenerated::text END,
                 CASE WHEN a.attidentity <> '' THEN 'identity ' || a.attidentity::text END,
                 CASE WHEN a.attcollation <> y.typcollation
                      THEN 'collate ' || a.attcollation::regcollation::text END,
                 'default ' || pg_get_expr(d.adbin, d.adrelid))
FROM tables AS t
JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS y ON y.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL
SELECT format('constraint %%s on %%s', quote_ident(o.conname), t.name), pg_get_constraintdef(o.oid)
FROM pg_constraint AS o JOIN tables AS t ON t.oid = o.conrelid
WHERE o.contype <> 'n'
UNION ALL
SELECT format('index %%s', r.name),
       pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
FROM pg_index AS i JOIN relations AS r ON r.oid = i.indexrelid JOIN tables AS t ON t.oid = i.indrelid
UNION ALL
SELECT format('trigger %%s on %%s', quote_ident(g.tgname), t.name),
       pg_get_triggerdef(g.oid) || ' ' || g.tgenabled::text
FROM pg_trigger AS g JOIN tables AS t ON t.oid = g.tgrelid
WHERE NOT g.tgisinternal
UNION ALL
SELECT format('policy %%s on %%s', quote_ident(p.polname), t.name),
       concat_ws(' ', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, t.oid),
                 pg_get_expr(p.polwithcheck, t.oid))
FROM pg_policy AS p JOIN tables AS t ON t.oid = p.polrelid
UNION ALL
SELECT format('sequence %%s', r.name),
       concat_ws(' ', format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax,
                 q.seqcycle)
FROM pg_sequence AS q JOIN relations AS r ON r.oid = q.seqrelid
UNION ALL
SELECT format('function %%I.%%I(%%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
       CASE WHEN p.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(p.oid) END
FROM pg_proc AS p JOIN spaces AS s ON s.oid = p.pronamespace
WHERE NOT EXISTS (SELECT FROM extension_owned WHERE classid = 'pg_proc'::regclass AND objid = p.oid)
UNION ALL
SELECT format('type %%I.%%I', s.nspname, t.typname),
       concat_ws(' ', t.typtype, format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typdefault,
                 (SELECT string_agg(v.enumlabel, ', ' ORDER BY v.enumsortorder)
                  FROM pg_enum AS v WHERE v.enumtypid = t.oid),
                 (SELECT string_agg(pg_get_constraintdef(o.oid), ' ' ORDER BY o.conname)
                  FROM pg_constraint AS o WHERE o.contypid = t.oid))
FROM pg_type AS t JOIN spaces AS s ON s.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd', 'r')
  AND NOT EXISTS (SELECT FROM extension_owned WHERE classid = 'pg_type'::regclass AND objid = t.oid)
UNION ALL
SELECT format('statistics %%I.%%I', s.nspname, x.stxname), pg_get_statisticsobjdef(x.oid)
FROM pg_statistic_ext AS x JOIN spaces AS s ON s.oid = x.stxnamespace
UNION ALL
SELECT format('extension %%s', quote_ident(extname)), extversion FROM pg_extension
"""


def take_snapshot(connection: Connection[Any]) -> Snapshot:
    """The live schema of the database that this connection is in; bookkeeping tables are left out."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog")
        rows = connection.execute(_OBJECTS, {"bookkeeping": list(BOOKKEEPING)}).fetchall()
    # Every name carries its schema; public's is left out, since nearly all live there.
    return {name.replace(" public.", " "): definition for name, definition in rows}


def fingerprint_of(snapshot: Snapshot) -> str:
    """A hash that is equal for equal schemas, on any server."""
    text = json.dumps(snapshot, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def after_change(recorded: Snapshot, before: Snapshot, after: Snapshot) -> Snapshot:
    """What is expected once a migration took the live schema from `before` to `after`.

    Only its own changes count: a difference by hand that was there before it stays a difference.
    """
    gone = before.keys() - after.keys()
    changed = {name: text for name, text in after.items() if before.get(name) != text}
    return {name: text for name, text in recorded.items() if name not in gone} | changed


def describe_differences(first: Snapshot, second: Snapshot, first_name: str, second_name: str) -> list[str]:
    """In words, one object each: "column products.foo only on shard-1"."""
    words = []
    # A table that is on one side only says it all.
    tables = {name.split()[1] for name in first.keys() ^ second.keys() if name.startswith(_WITH_COLUMNS)}
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if _table_of(name, one or other or "") in tables:
            continue
        if other is None:
            words.append(f"{name} only {first_name}")
        elif one is None:
            words.append(f"{name} only {second_name}")
        elif one != other:
            both = f": {one} {first_name}, {other} {second_name}"
            # Of a function's body, only that it differs.
            words.append(
                f"{name} differs" + (both if "\n" not in both else f" {first_name} and {second_name}")
            )
    return words


def _table_of(name: str, definition: str) -> str:
    """The table that an object belongs to; empty where it belongs to none."""
    words = name.split()
    if words[0] == "column":
        return words[1].rpartition(".")[0]
    if words[0] == "index":
        indexed = re.search(r" ON (?:ONLY )?(?:public\.)?(\S+) USING ", definition)
        return indexed[1] if indexed else ""
    return words[3] if words[0] in {"constraint", "trigger", "policy"} else ""
