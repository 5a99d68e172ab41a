"""The demo data of a first start, made by the command that anyone else would use: `flask seed`."""

from __future__ import annotations

import json
import sys

from devcluster import publish
from devcluster.cluster import Cluster
from devcluster.errors import ClusterError
from devcluster.processes import write_private
from devcluster.removal import ROOT

# Enough that both shards get stores and a list has several pages; seeded in a second.
_SIZE = ("--stores", "6", "--products", "600", "--orders", "120", "--random-seed", "1")


def ensure(cluster: Cluster) -> str | None:
    """Seed on the first start (`SEED=0`: never). Returns the demo store's id, None where there is none.

    The first start's choice is kept in a file, so that a start that was killed meanwhile is made up for.
    """
    layout = cluster.layout
    if not layout.demo.exists():
        wanted = cluster.environ.get("SEED") != "0"
        write_private(layout.demo, json.dumps({"wanted": wanted, "store_id": None}))
    state = json.loads(layout.demo.read_text())
    if state["wanted"] and state["store_id"] is None:
        state["store_id"] = _seed(cluster)
        write_private(layout.demo, json.dumps(state))
    store_id: str | None = state["store_id"]
    return store_id


def _seed(cluster: Cluster) -> str:
    keys = cluster.layout.demo_keys
    command = [sys.executable, "-m", "flask", "--app", "app", "seed", *_SIZE, "--keys", str(keys)]
    environ = {**publish.settings_values(cluster), "VAR": str(cluster.layout.var)}
    try:
        cluster.launcher.command(command, cwd=ROOT, environ=environ, as_oneself=True)
    except ClusterError:
        # Killed after its commit the last time, it refuses to make the same rows again: the keys are there.
        if not keys.exists():
            raise
    first = json.loads(keys.read_text().splitlines()[0])
    write_private(cluster.layout.demo_merchant_key, f"{first['api_key']}\n")
    store_id: str = first["store_id"]
    return store_id
