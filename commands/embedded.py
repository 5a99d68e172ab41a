"""The embedded cluster, seen from the command line: what runs there, and a request to it for servers.

It is a program of its own (`python -m devcluster`), and says in `$VAR/cluster.json` what it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from commands.terminal import Failure
from config import ROOT, Settings
from routing.shard_map import ShardMap

_PROGRAM = "devcluster: "


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedded cluster of a data folder."""

    var: Path

    def servers_of(self, shard: str) -> list[tuple[str, int]]:
        """Host and port of each of a shard's servers that runs."""
        found = [each for each in _described(self.var) if each["kind"] == "postgres"]
        return [(e["host"], e["port"]) for e in found if e["name"].rpartition("-")[0] == shard]

    def add(self, shard: str) -> list[tuple[str, int]]:
        """Make and start the servers of a shard; where they listen. Raises `Failure`."""
        if failed := self._run("add-shard", shard):
            raise Failure(failed)
        return self.servers_of(shard)

    def remove(self, shard: str) -> str | None:
        """Stop the servers of a shard and delete their data; why not, where that is so."""
        return self._run("remove-shard", shard)

    def _run(self, command: str, shard: str) -> str | None:
        """Let it say what it does; a Ctrl-C reaches it, too, and is waited for."""
        with subprocess.Popen(  # noqa: S603 - the command is ours, the name an argument of it
            [sys.executable, "-m", "devcluster", command, shard],
            cwd=ROOT,
            env={**os.environ, "VAR": str(self.var)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                for line in process.stdout:
                    click.echo(line.rstrip(), err=True)
                said = process.stderr.read()
            except BaseException:
                process.terminate()
                raise
        if process.returncode == 0:
            return None
        lines = said.strip().splitlines() or [f"{command} ended with status {process.returncode}"]
        return lines[-1].removeprefix(_PROGRAM)


def embedded_cluster(settings: Settings, shard_map: ShardMap) -> Embedded | None:
    """The one that holds these shards; None where they are servers of somebody else."""
    running = {(each["name"], each["host"], each["port"]) for each in _described(settings.var)}
    first = [node for node in shard_map.nodes if node.shard == shard_map.first_shard]
    ours = any((node.name, node.host, node.port) in running for node in first)
    return Embedded(settings.var) if ours else None


def _described(var: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((var / "cluster.json").read_text())["processes"]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return found
