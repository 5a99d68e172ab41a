"""psql on a node of the cluster, with what the project gives it: sql/psql/psqlrc and the prompt."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

from devcluster import lineage, programs
from devcluster.bootstrap import SHARD_DATABASE
from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.postgres import ADMINISTRATOR
from devcluster.removal import ROOT
from devcluster.topology import HOST

_PSQL_FILES = ROOT / "sql" / "psql"
_INSPECT = ROOT / "sql" / "inspect"

# A statement of a person's that waits for a strong lock has everybody else wait behind it; a transaction that somebody
# forgot keeps every row version since it began.
_SAFE_OPTIONS = "-c lock_timeout=5s -c idle_in_transaction_session_timeout=5min"
# -c, -f or -l, alone or behind options that take no value: psql does what they say, and ends.
_RUNS_AND_ENDS = re.compile(r"-[1aAbeEHlnqsStVwWxXz0]*[cfl]|--(command|file|list)\b")


def become_psql(
    layout: Layout,
    processes: Iterable[Mapping[str, object]],
    name: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
) -> None:
    """Become psql on a node, as administrator; `processes` as cluster.json has them.

    The password goes by the environment: no `ps` shows it. Raises `ClusterError` where there is no such node.
    """
    ports = {str(each["name"]): str(each["port"]) for each in processes if each["kind"] == "postgres"}
    interactive = is_interactive(arguments)
    node = _node(layout, ports, name)
    program = programs.postgres_folder(environ) / "psql"
    connection = {
        "PGHOST": HOST,
        "PGPORT": ports[node],
        "PGUSER": ADMINISTRATOR,
        "PGDATABASE": SHARD_DATABASE,
        "PGPASSWORD": json.loads(layout.secrets.read_text())[ADMINISTRATOR],
        "PGAPPNAME": "make psql",
        "PGCONNECT_TIMEOUT": "5",
    }
    if node != name and not interactive:
        # What a script writes goes to a primary or nowhere. A person stays connected when the node becomes a replica.
        connection["PGTARGETSESSIONATTRS"] = "read-write"
    given = {"PSQLRC": str(_PSQL_FILES / "psqlrc"), "PSQL_INSPECT": str(_INSPECT)}
    if interactive:
        connection["PGOPTIONS"] = _SAFE_OPTIONS
        given |= {
            "PSQL_INTERACTIVE": "on",
            "PSQL_PROMPT": str(_PSQL_FILES / "prompt"),
            "PSQL_PROGRAM": str(program),
            "PSQL_DATA": str(layout.data),
            "PSQL_NODE": node,
            "PSQL_PORT": ports[node],
        }
        if not environ.get("NO_COLOR") and environ.get("TERM") not in (None, "", "dumb"):
            given["PSQL_COLOUR"] = "on"
    # Neither what a person has for other servers, nor what an outer `make psql` has set for this one.
    ours = ("PG", "PSQLRC", "PSQL_INSPECT", "PSQL_INTERACTIVE", "PSQL_COLOUR")
    inherited = {key: value for key, value in environ.items() if not key.startswith(ours)}
    sys.stdout.flush()
    os.execve(program, [str(program), *arguments], {**inherited, **connection, **given})  # noqa: S606


def is_interactive(arguments: Sequence[str]) -> bool:
    """Whether a person sits at it: a terminal at both ends, and no argument that names what to run."""
    runs = any(_RUNS_AND_ENDS.match(argument) for argument in arguments)
    return not runs and sys.stdin.isatty() and sys.stdout.isatty()


def _node(layout: Layout, ports: Mapping[str, str], name: str) -> str:
    """The node that is meant: itself, or a shard's primary."""
    primaries = sorted({f"{node.rpartition('-')[0]}-primary" for node in ports})
    if name in primaries:
        shard = name.removesuffix("-primary")
        # By what lies on disk: a primary from before a failover would also say that it accepts writes.
        siblings = {node: layout.server(node) for node in ports if node.rpartition("-")[0] == shard}
        return lineage.primary(shard, siblings)
    if name not in ports:
        raise ClusterError(f"there is no node {name}: NODE is one of {', '.join([*primaries, *ports])}")
    return name
