"""What a running cluster tells others: `settings.json` for the service, `cluster.json` for tools and labs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from devcluster import bootstrap
from devcluster.postgres import ADMINISTRATOR
from devcluster.processes import write_private
from devcluster.topology import HOST, PostgresNode, ValkeyNode

if TYPE_CHECKING:
    from devcluster.cluster import Cluster


def settings_values(cluster: Cluster) -> dict[str, str]:
    """The settings of config.py that only the cluster knows."""
    catalog_nodes = cluster.topology.nodes(cluster.topology.shard_names[0])
    redis, *locks = cluster.topology.valkeys()
    passwords = cluster.credentials.passwords
    return {
        "CATALOG_DSN": (
            f"host={','.join(HOST for _ in catalog_nodes)} "
            f"port={','.join(str(node.port) for node in catalog_nodes)} "
            f"dbname={bootstrap.CATALOG_DATABASE} user=app password={passwords['app']}"
        ),
        "DATABASE_NAME": bootstrap.SHARD_DATABASE,
        "DATABASE_USER": "app",
        "DATABASE_PASSWORD": passwords["app"],
        "ADMIN_USER": ADMINISTRATOR,
        "ADMIN_PASSWORD": passwords[ADMINISTRATOR],
        "REDIS_URL": cluster.valkey.url(redis),
        "LOCK_URLS": ",".join(cluster.valkey.url(lock) for lock in locks),
        "SECRET_KEY": cluster.credentials.secret_key,
        "OPERATOR_TOKEN": cluster.credentials.operator_token,
        "HOST": HOST,
        "PORT": str(cluster.http_port),
    }


def settings(cluster: Cluster) -> None:
    """Write `$VAR/settings.json`."""
    write_private(cluster.layout.settings, json.dumps(settings_values(cluster), indent=2) + "\n")


def topology(cluster: Cluster) -> None:
    """Write down what `Cluster` was started with, for `Cluster.running` in another process."""
    first = asdict(replace(cluster.topology, grown=(), absent=()))  # growth.py keeps these
    value = {"topology": first, "http_port": cluster.http_port, "durable": cluster.durable}
    write_private(cluster.layout.topology, json.dumps(value) + "\n")


def processes(cluster: Cluster) -> None:
    """Write `$VAR/cluster.json`: what was started and is not stopped."""
    described = []
    with cluster.layout.publishing():
        cluster.reload()
        nodes = {node.name: node for node in cluster.topology}
        for process in cluster.launcher.recorded():
            node = nodes.get(process.name)
            port = node.port if node else cluster.http_port
            identity = {"name": process.name, "kind": process.kind, "pid": process.pid}
            described.append({**identity, "host": HOST, "port": port, "dsn": _address(cluster, node)})
        value = {"base_url": base_url(cluster), "processes": described}
        write_private(cluster.layout.processes, json.dumps(value, indent=2) + "\n")


def base_url(cluster: Cluster) -> str:
    return f"http://{HOST}:{cluster.http_port}"


def _address(cluster: Cluster, node: PostgresNode | ValkeyNode | None) -> str:
    if node is None:
        return base_url(cluster)
    if isinstance(node, ValkeyNode):
        return cluster.valkey.url(node)
    password = quote(cluster.credentials.passwords[ADMINISTRATOR], safe="")
    return f"postgresql://{ADMINISTRATOR}:{password}@{HOST}:{node.port}/{bootstrap.SHARD_DATABASE}"
