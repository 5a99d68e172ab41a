"""Signed text that clients carry and hand back: paging cursors, session tokens, consistency tokens.

A signed text is base64url(payload + tag) without padding (RFC 4648 section 5); the tag is HMAC-SHA256
(RFC 2104) cut to 16 bytes. It hides nothing: whoever holds the text can read the payload, but only this
service can have written it.
"""

from __future__ import annotations

import base64
import hmac

from errors import ConfigurationError

# 128 bits: guessing is hopeless, and a cursor or header stays short. RFC 2104 section 5 asks for half the
# hash at least.
TAG_BYTES = 16

_SHORTEST_SECRET = 16


class Signer:
    """Signs and checks for one purpose; what was signed for another purpose does not pass.

    `purpose` is a fixed label such as "paging cursor". Raises `ConfigurationError` where the secret is too
    short to be one.
    """

    __slots__ = ("_key",)

    def __init__(self, secret_key: str, purpose: str) -> None:
        if len(secret_key) < _SHORTEST_SECRET:
            raise ConfigurationError(f"SECRET_KEY has fewer than {_SHORTEST_SECRET} characters")
        # One secret, one derived key a purpose: a cursor can never be passed off as a session.
        self._key = hmac.digest(secret_key.encode(), b"signing:" + purpose.encode(), "sha256")

    def sign(self, payload: bytes) -> str:
        """The text for `payload`; the same payload always gives the same text."""
        return _encode(payload + self._tag(payload))

    def unsign(self, text: str) -> bytes | None:
        """The payload, or None for every text that `sign` did not return, however small the difference."""
        try:
            signed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return None
        # The decoder skips characters outside the alphabet and ignores the last character's spare bits, so
        # several texts decode to the same bytes. Only the one that encodes back is ours.
        if len(signed) < TAG_BYTES or _encode(signed) != text:
            return None
        payload, tag = signed[:-TAG_BYTES], signed[-TAG_BYTES:]
        return payload if hmac.compare_digest(tag, self._tag(payload)) else None

    def _tag(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")[:TAG_BYTES]


def _encode(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode("ascii")
