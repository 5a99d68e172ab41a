"""Pages by keyset: a cursor is the last id of the page before, signed together with the list it belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

from errors import BadRequest
from routing.router import Row
from signing import Signer

# Greater than every id, so that the first page needs no query of its own.
_BEFORE_ALL = UUID(int=(1 << 128) - 1)
_LIST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Page:
    """`documents` is JSON, joined by commas; `next_cursor` is None on the last page."""

    documents: str
    next_cursor: str | None

    def document(self) -> bytes:
        """The whole answer's JSON."""
        # A cursor is base64url: nothing in it needs escaping.
        cursor = "null" if self.next_cursor is None else f'"{self.next_cursor}"'
        return f'{{"data":[{self.documents}],"next_cursor":{cursor}}}'.encode()


class Cursors:
    """Writes and reads cursors. `listed` names a list with all that narrows it: a cursor of one is no other's."""

    def __init__(self, secret_key: str) -> None:
        self._signer = Signer(secret_key, "paging cursor")

    def before(self, cursor: str | None, *listed: object) -> UUID:
        """Where the page begins: below this id. Raises `BadRequest` for a cursor that is not of this list."""
        if cursor is None:
            return _BEFORE_ALL
        payload = self._signer.unsign(cursor)
        if payload is None or payload[:_LIST_BYTES] != _digest(listed):
            raise BadRequest(
                "The cursor is not one of this list's.",
                errors=[{"path": "/cursor", "message": "Not a cursor of this list."}],
            )
        return UUID(bytes=payload[_LIST_BYTES:])

    def page(self, row: Row, *listed: object) -> Page:
        """The page of a list query's row `(documents, last id, whether more follow)`."""
        documents, last_id, more = row[:3]
        return Page(documents or "", self.after(last_id, *listed) if more else None)

    def after(self, last_id: UUID, *listed: object) -> str:
        return self._signer.sign(_digest(listed) + last_id.bytes)


def _digest(listed: tuple[object, ...]) -> bytes:
    # repr keeps ("a", "bc") and ("ab", "c") apart.
    return hashlib.blake2b(repr([str(part) for part in listed]).encode(), digest_size=_LIST_BYTES).digest()
