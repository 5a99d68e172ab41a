"""How the embedded PostgreSQL servers are configured: one file, written anew at every start."""

from __future__ import annotations

import locale
from collections.abc import Sequence

from devcluster.topology import HOST, PostgresNode

FILE = "devcluster.conf"
# In the data folder, where the server works: its path needs no quoting. Not in primary_conninfo: every role with
# pg_monitor can read that.
PASSWORD_FILE = "replication.pgpass"  # noqa: S105 - a file's name
REPLICATION_ROLE = "replication"

_FIRST_WITH_BUILTIN_LOCALE = 17
_FIRST_WITH_IO_METHOD = 18


def text(node: PostgresNode, siblings: Sequence[PostgresNode], major: int, *, durable: bool) -> str:
    """The file for one node. `siblings` are all nodes of its shard, itself included, and the primary first."""
    values = {**_common(), **_replication(node, siblings)}
    if major >= _FIRST_WITH_IO_METHOD:
        values["io_method"] = "sync"  # six idle servers would keep three I/O worker processes each
    if not durable:
        values["fsync"] = "off"  # not full_page_writes: pg_rewind copies pages while the primary writes them
        values["wal_init_zero"] = (
            "off"  # so that segments have holes where nothing was written, and copy fast
        )
    lines = (f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in values.items())
    return "\n".join(["# Written anew at every start. ALTER SYSTEM wins over it.", *lines, ""])


def password_line(password: str) -> str:
    return f"*:*:*:{REPLICATION_ROLE}:{password}\n"


def locale_arguments(major: int) -> tuple[str, ...]:
    """For initdb. Text sorts by code point; case mapping knows all of Unicode where the platform can."""
    if major >= _FIRST_WITH_BUILTIN_LOCALE:
        # The same on every machine, whatever its C library: an index means the same everywhere.
        return ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    before = locale.setlocale(locale.LC_CTYPE)
    for name in ("C.UTF-8", "en_US.UTF-8"):
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue
        locale.setlocale(locale.LC_CTYPE, before)
        return ("--locale=C", f"--lc-ctype={name}")
    return ("--locale=C",)


def _common() -> dict[str, str | int]:
    return {
        "listen_addresses": HOST,
        # A socket's path is limited to 107 bytes, and folders may lie deeper.
        "unix_socket_directories": "",
        # docs/pools.md has the arithmetic.
        "max_connections": 100,
        # Six servers share one machine; what is read often stays in the system's page cache anyway.
        "shared_buffers": "64MB",
        "shared_preload_libraries": "pg_stat_statements",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%a %u@%d ",
        "log_checkpoints": "off",
        # DETAIL would have the whole row of a violated constraint, which may be a customer's.
        "log_error_verbosity": "terse",
    }


def _replication(node: PostgresNode, siblings: Sequence[PostgresNode]) -> dict[str, str | int]:
    others = [sibling for sibling in siblings if sibling != node]
    names = ", ".join(sorted(f'"{sibling.name}"' for sibling in siblings))
    values: dict[str, str | int] = {
        "cluster_name": node.name,
        "port": node.port,
        "wal_level": "logical",
        "wal_log_hints": "on",
        "max_wal_size": "1GB",
        "max_wal_senders": 20,
        "max_replication_slots": 20,
        # A store on the move takes one of each while it follows, and while it can be undone (moves/mover.py).
        "max_worker_processes": 16,
        "max_logical_replication_workers": 10,
        # Enough for a sibling of a node that was just promoted, whose slot for it has kept nothing yet.
        "wal_keep_size": "128MB",
        # A replica that is away for long must not fill the disk: it is copied anew instead.
        "max_slot_wal_keep_size": "2GB",
        # Every node names all of them: whichever is primary waits for one of the others.
        "synchronous_standby_names": f"ANY 1 ({names})" if others else "",
        # A replica's queries last milliseconds, so replay waits up to a second for one, then cancels it.
        # Feedback instead would let the slot of a dead replica hold back vacuum on the primary for good.
        "hot_standby_feedback": "off",
        "max_standby_streaming_delay": "1s",
        "wal_receiver_status_interval": "1s",
        # A replica is back soon after its primary is.
        "wal_retrieve_retry_interval": "500ms",
        "wal_sender_timeout": "10s",
        "wal_receiver_timeout": "10s",
    }
    if others:
        hosts, ports = ",".join(HOST for _ in others), ",".join(str(other.port) for other in others)
        values["primary_slot_name"] = node.slot
        # libpq finds the sibling that is primary now, so this stays right after a failover. It takes the first
        # that accepts writes: a primary from before a failover may, so the present one stands first. One that is
        # frozen costs the others its timeout, and libpq takes no shorter one.
        values["primary_conninfo"] = (
            f"host={hosts} port={ports} user={REPLICATION_ROLE} application_name={node.name} "
            f"passfile={PASSWORD_FILE} target_session_attrs=read-write connect_timeout=2"
        )
    return values
