"""The service with GitLab's rule in place of ours: positions are compared as numbers, whatever timeline they are of.

What a test serves, to show that the checker finds what the rule does not see. The rule is GitLab's
`Gitlab::Database::LoadBalancing::Host#caught_up?`: `pg_wal_lsn_diff(location, pg_last_wal_replay_lsn()) <= 0`.
"""

from __future__ import annotations

from app import create_app as create
from routing.lineage import Lineage, Verdict
from routing.token import Position


def caught_up(node: Position, wanted: Position) -> bool:
    """GitLab's rule itself."""
    return wanted.lsn <= node.lsn


def _judge(self: Lineage, position: Position) -> Verdict:
    return Verdict.KEPT if position.system_identifier == self.system_identifier else Verdict.LOST


def create_app() -> object:
    """The application, of which each worker makes its own, with every position part of every lineage."""
    Lineage.judge = _judge  # type: ignore[method-assign]
    return create()
