"""The consistency token: what a client has written, as a position in the log of each cluster it wrote to.

A client hands it back, and a node may answer once it has replayed those positions. It is signed: without
that, a made-up position far ahead would make every replica look stale and send all reads to the primary.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from signing import TAG_BYTES, Signer

# One version byte, then for each cluster 64 bits of system identifier, 32 of timeline, 64 of LSN, in the
# order in which the clusters were written to, the latest last.
_VERSION = b"\x01"
_ENTRY = struct.Struct(">QIQ")

# A browser keeps 4,096 bytes of a cookie; 64 positions are 1,730 characters.
MAX_POSITIONS = 64
_MAX_BYTES = len(_VERSION) + MAX_POSITIONS * _ENTRY.size + TAG_BYTES
MAX_CHARACTERS = -(-_MAX_BYTES * 8 // 6)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the write-ahead log of one PostgreSQL cluster, a primary with its replicas.

    `system_identifier` is the cluster's own (`pg_control_system()`), `timeline` rises with each failover,
    `lsn` is a byte position.
    """

    system_identifier: int
    timeline: int
    lsn: int


class TokenCodec:
    """Writes and reads tokens. Their text is opaque to clients, and short: 50 characters for one position."""

    __slots__ = ("_signer",)

    def __init__(self, secret_key: str) -> None:
        self._signer = Signer(secret_key, "consistency token")

    def encode(self, positions: Mapping[int, Position]) -> str:
        """The token for these positions, keyed by system identifier, the latest written last.

        One token holds `MAX_POSITIONS`; of more, the positions written longest ago are left out, since
        those are the likeliest to have been replayed everywhere by now.
        """
        kept = list(positions.values())[-MAX_POSITIONS:]
        entries = [_ENTRY.pack(place.system_identifier, place.timeline, place.lsn) for place in kept]
        return self._signer.sign(_VERSION + b"".join(entries))

    def decode(self, text: str | None) -> dict[int, Position]:
        """The positions of a token, keyed by system identifier and in its order; `encode` gives the same
        text again.

        A token that is missing, forged, garbled, too long or of another version says nothing: {}, and no
        error, since a client cannot mend it and a read from the primary is right without one.
        """
        if not text or len(text) > MAX_CHARACTERS:
            return {}
        payload = self._signer.unsign(text)
        if payload is None or not payload.startswith(_VERSION):
            return {}
        entries = _ENTRY.iter_unpack(payload[len(_VERSION) :])
        return {entry[0]: Position(*entry) for entry in entries}


def merge(earlier: Mapping[int, Position], later: Mapping[int, Position]) -> dict[int, Position]:
    """What both have seen: for each cluster the position further on; those of `later` stand last.

    Of two positions of one cluster the higher timeline is further on, and on one timeline the higher LSN. A
    promotion starts a new timeline from what the promoted node had replayed, and quorum commit makes that
    all that was acknowledged: so a position on the newer timeline comes after every acknowledged write of
    the older one, whatever their LSNs. It is not enough to judge a node by, where an unacknowledged tail of
    the old timeline was lost: that takes the timeline's history, which only the node has.
    """
    merged = {identifier: place for identifier, place in earlier.items() if identifier not in later}
    for identifier, place in later.items():
        known = earlier.get(identifier, place)
        merged[identifier] = max(place, known, key=lambda position: (position.timeline, position.lsn))
    return merged
