"""Whom a replica follows, as text: the values that a failover gives to primary_conninfo.

Each keeps the options that the replica had (role, password file, encryption, its name) and changes the addresses. While
a failover is under way they carry a mark in an option that libpq then ignores, so that a run that was killed is
recognised by the next one, and what the replica had is not lost with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pools.node import Node

# The WAL receiver passes a fallback_application_name of its own, which wins over this one.
_MARK = "failover-under-way"
# No server listens in a folder that is not there: connecting fails at once.
_NOWHERE = "/no-primary"
# Where the replica has none of its own: a frozen server must not keep it from the next.
_CONNECT_TIMEOUT_SECONDS = 5
_ADDRESS = ("host", "hostaddr", "port", "target_session_attrs", "fallback_application_name")


def nowhere(conninfo: str) -> str:
    """Nobody: the replica hears no primary, and receives nothing more."""
    return make_conninfo("", **_options(conninfo), host=_NOWHERE, port=1, fallback_application_name=_MARK)


def only(conninfo: str, node: Node) -> str:
    """This node and no other, whether it is primary yet or not."""
    return make_conninfo(
        "", **_options(conninfo), host=node.host, port=node.port, fallback_application_name=_MARK
    )


def whoever_is_primary(conninfo: str, first: Node | None, siblings: Sequence[Node]) -> str:
    """Whichever of the siblings accepts writes, `first` before the others: a frozen one is asked late.

    It must be first while an old primary still runs: that one accepts writes too, and PostgreSQL, which refuses to
    follow it, would ask no other.
    """
    nodes = sorted(siblings, key=lambda node: node != first)
    options = {"connect_timeout": _CONNECT_TIMEOUT_SECONDS, **_options(conninfo)}
    return make_conninfo(
        "",
        **options,
        host=",".join(node.host for node in nodes),
        port=",".join(str(node.port) for node in nodes),
        target_session_attrs="read-write",
    )


def is_marked(conninfo: str) -> bool:
    """Whether a failover gave this value and did not finish."""
    return conninfo_to_dict(conninfo).get("fallback_application_name") == _MARK


def leads_to(conninfo: str, node: Node) -> bool:
    """Whether the replica follows this node alone."""
    values = conninfo_to_dict(conninfo)
    return (values.get("host"), values.get("port")) == (node.host, str(node.port))


def name_in(conninfo: str) -> str:
    """The name that the replica gives when it connects; empty where the server's own is taken."""
    return str(conninfo_to_dict(conninfo).get("application_name") or "")


def unnamed(conninfo: str) -> str:
    """The same without a name, for another server: that then gives its own."""
    return make_conninfo("", **{**conninfo_to_dict(conninfo), "application_name": None})


def _options(conninfo: str) -> dict[str, str | int | None]:
    return {name: value for name, value in conninfo_to_dict(conninfo).items() if name not in _ADDRESS}
