"""What can go wrong with the embedded cluster. Every message is one line that a person can act on."""

from __future__ import annotations

from errors import MarketplaceError


class ClusterError(MarketplaceError):
    """The cluster cannot do what was asked; the message says why, and what to change."""


class Interrupted(ClusterError):
    """A stop was asked for while the cluster was still starting."""


class OffLineage(ClusterError):
    """A replica has replayed what its primary never had: it has to be brought back before it can follow."""


class NotYet(ClusterError):
    """A server is frozen, or somebody else is at it: the same will do in a moment."""
