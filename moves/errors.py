"""What can come between a move and its end."""

from __future__ import annotations

from errors import MarketplaceError


class MoverReplaced(MarketplaceError):
    """Another mover has taken over: this one must not touch anything any more."""


class MoveFailed(MarketplaceError):
    """The move cannot go on, and trying again would not help: the store stays where it is."""


class MoveInterrupted(MarketplaceError):
    """This attempt came to nothing: what it made is taken back, and the move begins again."""

    retryable = True


class MarkLate(MoveInterrupted):
    """What the source has written did not arrive in time; nothing else is wrong."""


class MoveCancelled(MarketplaceError):
    """Somebody asked for the move to be taken back before its switch."""
