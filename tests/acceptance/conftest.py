"""One service that tests of this folder share, each in a store of its own. Who turns flags starts another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster.cluster import Cluster
from tests.cluster_fixtures import Service, fresh_databases, serving
from tests.shop import Shop

# Tests sign up by the dozen, and how hard a password is to guess is not what they are about.
QUICK_SCRYPT_LOG2_N = 8


@pytest.fixture(scope="session")
def market(cluster: Cluster) -> Iterator[Service]:
    """The running service. It has stores of other tests in it, on both shards. Whatever they ask, it never breaks."""
    with (
        fresh_databases(cluster, scrypt_log2_n=QUICK_SCRYPT_LOG2_N) as databases,
        serving(databases.settings) as running,
    ):
        yield running
        broken = [line for line in running.log.read_text().splitlines() if "Traceback" in line]
        assert not broken, "\n".join(broken)


@pytest.fixture(scope="module")
def shop(market: Service) -> Shop:
    """This module's store."""
    return Shop.create(market)
