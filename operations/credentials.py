"""Who is asking: the operator's token, a merchant's key, a shopper's session.

All three come as `Authorization: Bearer ...`. Keys and session tokens are signed (`signing.py`), so a forged one costs
no look-up, and name their store, so one of another store is refused without looking at either store.

    merchant key     mk_ + signed(store, key id, 32 random bytes); PostgreSQL keeps a hash of the random bytes
    session token    st_ + signed(store, session id, customer id or zeros, expiry); nothing is kept
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import sql
from errors import Forbidden, Unauthorized
from routing.router import Router
from routing.scope import Scope
from signing import Signer

FIND_API_KEY = sql.query("find_api_key")

# A revoked key stops within 5 s on every worker: one poll before that, and its answer's time, may still be missing.
TRUST_SECONDS = 4.0
# How far back a poll looks; longer than a revoking transaction may take from its first statement to its commit.
REVOCATION_WINDOW_SECONDS = 60
# A worker that has not heard for so long looks every key up again: sooner than the window has gone by.
FORGET_SECONDS = 30.0
# Keys a worker remembers; each takes some 200 bytes. The oldest is looked up again when it comes back.
REMEMBERED_KEYS = 100_000

_MERCHANT_PREFIX, _SESSION_PREFIX = "mk_", "st_"
# The credentials that are as good as a consistency token: what was written with them is remembered for them.
REMEMBERED = (_MERCHANT_PREFIX, _SESSION_PREFIX)
_MERCHANT = struct.Struct("!16s16s32s")
_SESSION = struct.Struct("!16s16s16sQ")
_NO_CUSTOMER = bytes(16)
_NO_STORE = UUID(int=0)

Kind = Literal["operator", "merchant", "session"]


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential that was checked. `id` is the key's or the session's; idempotency keys belong to it."""

    kind: Kind
    id: UUID
    store_id: UUID
    customer_id: UUID | None = None
    expires_at: int = 0  # a session's, seconds since 1970

    @property
    def shopper_id(self) -> UUID | None:
        """Who an order belongs to: the customer, or the guest's session; None for a merchant."""
        return (self.customer_id or self.id) if self.kind == "session" else None

    @property
    def is_guest(self) -> bool:
        return self.kind == "session" and self.customer_id is None

    @property
    def session_id(self) -> UUID | None:
        return self.id if self.kind == "session" else None


class Credentials:
    """Checks what a request carries. Steady state: no round trip for a key this worker has seen."""

    def __init__(self, secret_key: str, operator_token: str, session_ttl_seconds: int) -> None:
        self._operator = _hash(operator_token.encode()) if operator_token else None
        self._merchant_signer = Signer(secret_key, "merchant key")
        self._session_signer = Signer(secret_key, "session token")
        self._session_ttl_seconds = session_ttl_seconds
        self._lock = threading.Lock()
        self._known_keys: OrderedDict[UUID, bytes] = OrderedDict()
        self._revoked_keys: set[UUID] = set()
        self._revocations_heard: dict[str, float] = {}

    # Making them

    def new_merchant_key(self, store_id: UUID, key_id: UUID) -> tuple[str, bytes]:
        """The key to show once, and the hash to keep."""
        secret = secrets.token_bytes(32)
        text = self._merchant_signer.sign(_MERCHANT.pack(store_id.bytes, key_id.bytes, secret))
        return _MERCHANT_PREFIX + text, _hash(secret)

    def new_session(self, store_id: UUID, session_id: UUID, customer_id: UUID | None) -> tuple[str, int]:
        """The token, and the seconds it lives."""
        customer = customer_id.bytes if customer_id else _NO_CUSTOMER
        expires_at = int(time.time()) + self._session_ttl_seconds
        text = self._session_signer.sign(
            _SESSION.pack(store_id.bytes, session_id.bytes, customer, expires_at)
        )
        return _SESSION_PREFIX + text, self._session_ttl_seconds

    # Checking them

    def authenticate(
        self, scope: Scope, router: Router, bearer: str, accepted: frozenset[str], store_id: UUID | None
    ) -> Credential:
        """The credential, good for this store and of one of the `accepted` kinds.

        Raises `Unauthorized` for one that is unknown, garbled, expired or revoked, and `Forbidden` for a good one of
        another kind or store; neither says anything about the store.
        """
        credential, secret = self._parse(bearer)
        if credential is None:
            raise Unauthorized("The credential is not known.")
        if credential.kind not in accepted:
            raise Forbidden(f"This takes a credential of the {' or the '.join(sorted(accepted))}.")
        if credential.kind != "operator" and credential.store_id != store_id:
            raise Forbidden("The credential is of another store.")
        if credential.kind == "merchant" and not self._is_known(scope, router, credential, secret):
            raise Unauthorized("The credential is not known.")
        return credential

    def recognize(self, bearer: str) -> Credential | None:
        """Who the text names, without asking anybody: None where it was not made here, or has expired. A merchant key
        may have been revoked."""
        return self._parse(bearer)[0]

    def _parse(self, bearer: str) -> tuple[Credential | None, bytes]:
        """Who the text says it is, as far as it can be told without asking; and a merchant key's secret."""
        kind, text = bearer[:3], bearer[3:]
        if kind == _SESSION_PREFIX:
            return self._parse_session(text), b""
        if kind == _MERCHANT_PREFIX:
            return self._parse_merchant_key(text)
        if self._operator and hmac.compare_digest(_hash(bearer.encode()), self._operator):
            return Credential("operator", _NO_STORE, _NO_STORE), b""
        return None, b""

    def _parse_session(self, text: str) -> Credential | None:
        payload = self._session_signer.unsign(text)
        if payload is None:
            return None
        store, session, customer, expires_at = _SESSION.unpack(payload)
        if expires_at <= time.time():
            return None
        customer_id = UUID(bytes=customer) if customer != _NO_CUSTOMER else None
        return Credential("session", UUID(bytes=session), UUID(bytes=store), customer_id, expires_at)

    def _parse_merchant_key(self, text: str) -> tuple[Credential | None, bytes]:
        payload = self._merchant_signer.unsign(text)
        if payload is None:
            return None, b""
        store, key, secret = _MERCHANT.unpack(payload)
        return Credential("merchant", UUID(bytes=key), UUID(bytes=store)), secret

    def _is_known(self, scope: Scope, router: Router, credential: Credential, secret: bytes) -> bool:
        key_id = credential.id
        if key_id in self._revoked_keys:
            return False
        kept = self._known_keys.get(key_id)
        if kept is None or not self._hears_of(router.shard_of(scope, credential.store_id)):
            kept, revoked = router.read(scope, credential.store_id, FIND_API_KEY, {"key_id": key_id})
            if kept is None or revoked:
                return False
            self._remember(key_id, kept)
        return hmac.compare_digest(_hash(secret), kept)

    def _hears_of(self, shard: str) -> bool:
        """Whether this worker heard lately which of the shard's keys were revoked; if not, it asks for each."""
        heard_at = self._revocations_heard.get(shard)
        return heard_at is not None and time.monotonic() - heard_at < TRUST_SECONDS

    def _remember(self, key_id: UUID, secret_hash: bytes) -> None:
        with self._lock:
            self._known_keys[key_id] = secret_hash
            while len(self._known_keys) > REMEMBERED_KEYS:
                self._known_keys.popitem(last=False)

    # Hearing of revocations

    def revoke(self, key_id: UUID) -> None:
        """Refuse a key in this worker from now on."""
        with self._lock:
            # Kept, not only forgotten: a look-up that began before the revocation may still remember the key after.
            self._revoked_keys.add(key_id)
            self._known_keys.pop(key_id, None)

    def heard_revocations(self, shard: str, asked_at: float, key_ids: list[UUID]) -> None:
        """What a shard answered when it was asked, at `asked_at` of the monotonic clock, which keys were revoked."""
        heard_at = self._revocations_heard.get(shard)
        if heard_at is None or asked_at - heard_at > FORGET_SECONDS:
            # A worker that was frozen, or cut off: what was revoked meanwhile may be out of the window already.
            with self._lock:
                self._known_keys.clear()
        for key_id in key_ids:
            if key_id not in self._revoked_keys:
                self.revoke(key_id)
        self._revocations_heard[shard] = asked_at


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
