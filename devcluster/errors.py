"""What can go wrong with the embedded cluster. Every message is one line that a person can act on."""

from __future__ import annotations

from errors import MarketplaceError


class ClusterError(MarketplaceError):
    """The cluster cannot do what was asked; the message says why, and what to change."""


class Interrupted(ClusterError):
    """A stop was asked for while the cluster was still starting."""
