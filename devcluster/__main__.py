"""`python -m devcluster COMMAND`: what the Makefile's targets run."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from devcluster import control
from devcluster.cluster import Cluster
from devcluster.errors import ClusterError
from devcluster.removal import ROOT
from devcluster.supervisor import say, supervise
from devcluster.topology import Topology
from errors import MarketplaceError

_VARIABLES = """\
environment variables:
  VAR             the data folder (./var)
  PORT            where the service listens (8000)
  CLUSTER_PORT    the first of the servers' ports (24320)
  OPERATOR_TOKEN  the operator's bearer token (made up, and kept in $VAR/operator-token)
  SEED=0          no demo data on the first start
  POSTGRES_BIN    folder of your own PostgreSQL's programs, 16 or newer (the package's)
  REDIS_SERVER    path of your own valkey-server or redis-server (the package's)
  CLUSTER_USER    who the servers run as when root starts them (postgres, else nobody)
  NO_COLOR        anything: no colours in the prompt of psql
"""
_LAST_PORT = 65535


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    environ = os.environ
    var = ROOT / Path(environ.get("VAR") or "var").expanduser()
    try:
        return _run(options, var, environ)
    except (MarketplaceError, OSError) as error:
        print(f"devcluster: {_one_line(error)}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, var: Path, environ: Mapping[str, str]) -> int:
    if options.command == "up":
        return supervise(_cluster(options, var, environ), serve=not options.servers_only)
    layout = control.open_layout(var, environ)
    if options.command == "psql":
        extra = [*shlex.split(environ.get("PSQL_ARGS", "")), *options.arguments]
        control.psql(layout, options.node, extra, environ)
    if options.command == "start":
        say(control.start(layout, options.name, environ))
        return 0
    if options.command in ("add-shard", "remove-shard"):
        change = control.add_shard if options.command == "add-shard" else control.remove_shard
        say(change(layout, options.name, environ, say))
        return 0
    say({"down": control.down, "clean": control.clean, "status": control.status}[options.command](layout))
    return 0


def _cluster(options: argparse.Namespace, var: Path, environ: Mapping[str, str]) -> Cluster:
    first = _port(environ, "CLUSTER_PORT", 24320)
    topology = Topology(first, options.shards, options.replicas, options.locks)
    if topology.last_port > _LAST_PORT:
        raise ClusterError(f"CLUSTER_PORT={first} leaves no room for {len(topology)} ports")
    http_port = _port(environ, "PORT", 8000)
    durable = not options.no_fsync
    return Cluster(var, topology, durable=durable, http_port=http_port, environ=environ, report=say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m devcluster",
        description="The embedded cluster: PostgreSQL shards with replicas, Redis-compatible servers, the service.",
        epilog=_VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start everything and stay in the foreground until Ctrl-C")
    up.add_argument("--servers-only", action="store_true", help="without the service")
    up.add_argument(
        "--no-fsync", action="store_true", help="for throw-away data: a crash of the machine may spoil it"
    )
    for name, most, default in (("shards", 16, 2), ("replicas", 8, 2), ("locks", 9, 3)):
        least = 1 if name == "shards" else 0
        allowed = range(least, most + 1)
        about = f"{least} to {most} ({default})"
        up.add_argument(f"--{name}", type=int, choices=allowed, default=default, metavar="N", help=about)
    commands.add_parser("down", help="stop whatever an up left running")
    commands.add_parser("clean", help="down, then delete the data folder")
    commands.add_parser("status", help="which processes there are, and whether they run")
    start = commands.add_parser(
        "start", help="start one server again that has died; as a replica, if it was failed over"
    )
    start.add_argument("name", help="such as shard-0-b, redis or lock-0")
    for name, about in (
        ("add-shard", "make and start the servers of one more shard (flask shards add has it join)"),
        ("remove-shard", "stop and delete the servers of a shard that flask shards remove has emptied"),
    ):
        commands.add_parser(name, help=about).add_argument("name", help="such as shard-2")
    psql = commands.add_parser("psql", help="open psql on a node, as administrator")
    psql.add_argument("node", help="such as shard-0-b, or shard-0-primary for whichever is primary now")
    psql.add_argument("arguments", nargs=argparse.REMAINDER, help="for psql, after those of $PSQL_ARGS")
    return parser


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    given = environ.get(name) or str(default)
    if not given.isascii() or not given.isdecimal() or not 1 <= int(given) <= _LAST_PORT:
        raise ClusterError(f"{name}={given} is no port: a number from 1 to {_LAST_PORT}")
    return int(given)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
