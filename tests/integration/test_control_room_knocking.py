"""A server whose main process is stopped takes no new connections, though its old ones go on answering."""

from __future__ import annotations

import socket

import psutil

from devcluster.cluster import Cluster
from devcluster.topology import HOST
from operations.control_room.knocking import unanswered
from pools.node import Node


def test_a_stopped_main_process_is_found_and_nobody_else(cluster: Cluster) -> None:
    nodes = [Node(node.name, node.shard, HOST, node.port) for node in cluster.topology.nodes("shard-0")]
    assert unanswered(nodes, 10.0) == set()
    replica = cluster.topology.nodes("shard-0")[-1]
    pid = next(process.pid for process in cluster.launcher.recorded() if process.name == replica.name)
    psutil.Process(pid).suspend()
    try:
        assert unanswered(nodes, 2.0) == {replica.name}
    finally:
        psutil.Process(pid).resume()
    assert unanswered(nodes, 10.0) == set()


def test_who_takes_no_connection_is_not_called_silent() -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
        assert unanswered([Node("nobody", "shard-0", HOST, port)]) == set()
