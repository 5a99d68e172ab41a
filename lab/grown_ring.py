"""One more shard in the ring for the length of a block, by the operator's own commands; then the map as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import psycopg

import config
from lab.ground import Ground
from lab.servers import wait_for
from operations.moves import find_move, move_store
from operations.placement import Placement, change_placement
from routing.catalog import Catalog
from routing.shard_map import ShardMap
from sql import query

NEW = "shard-lab"


class GrownRing:
    """The catalog, and what is done to it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        conninfo = config.load().catalog_dsn
        self.catalog = Catalog(
            lambda: psycopg.connect(conninfo, autocommit=True, target_session_attrs="read-write")
        )

    @property
    def map(self) -> ShardMap:
        return self.catalog.load().map

    @contextmanager
    def grown(self) -> Iterator[None]:
        """`flask shards add`, and at the end `remove`. Raises `SystemExit` with a command's words."""
        before = Placement.of(self.map)
        if any(shard.name == NEW for shard in self.map.shards):
            raise SystemExit(f"there is a {NEW}: flask shards remove {NEW} takes it away")
        try:
            self._shards("add", NEW)
            yield
        finally:
            self._leave(before)

    def move(self, stores: Sequence[UUID]) -> None:
        """Each to the new shard, by a live move that nobody undoes. Raises `SystemExit` where one fails."""
        moves = [move_store(self.catalog, store, NEW, 0.0) for store in stores]
        wait_for(
            lambda: all(find_move(self.catalog, move.id).tidied_at is not None for move in moves),
            f"{len(moves)} stores have moved",
        )
        for move in moves:
            found = find_move(self.catalog, move.id)
            if found.state != "done":
                raise SystemExit(f"a store did not move: {found.state} {found.error}")

    def forget(self, stores: Sequence[UUID]) -> None:
        """What the catalog says of stores that are to go: their pins, and how they moved."""
        with self.catalog.change() as connection:
            connection.execute("DELETE FROM moves WHERE store_id = ANY (%s)", [list(stores)])
            connection.execute("DELETE FROM pins WHERE store_id = ANY (%s)", [list(stores)])
            connection.execute(query("raise_epoch").text)

    def homes(self, stores: Sequence[UUID]) -> dict[UUID, str]:
        shard_map = self.map
        return {store: shard_map.route(store, sharding=True).shard for store in stores}

    def _leave(self, before: Placement) -> None:
        """Where the partitions of a shard that left have gone is not where they came from: they go back there.

        No store moves for it: whoever lives elsewhere is pinned, and unpinned where that is needless by now.
        """
        servers = self._ground.servers
        if any(each["name"].startswith(f"{NEW}-") for each in servers.processes()):
            self._shards("remove", NEW)
        change_placement(
            self.catalog,
            lambda shard: [
                store for (store,) in servers.sql(servers.primary(shard), "SELECT store_id FROM stores")
            ],
            lambda _: before,
        )

    def _shards(self, *arguments: str) -> None:
        """Out of reach of a Ctrl-C, and ended before one is heeded: what is half-made is the harder to take back."""
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "app", "shards", *arguments],
            cwd=config.ROOT,
            env={**os.environ, "VAR": str(self._ground.servers.var)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate()
        except BaseException:
            process.communicate()
            raise
        if process.returncode:
            raise SystemExit(f"flask shards {' '.join(arguments)}: {said}")
