"""Products: what merchants keep and everyone reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

import ids
import sql
from ephemeral.cache import HIGHEST_ID, LOWEST_ID, Kept
from errors import NotFound, PreconditionFailed
from operations.pages import Cursors
from routing.cached_reads import CachedReads, Change
from routing.router import Router
from routing.scope import Scope

READ_PRODUCT = sql.query("read_product")
LIST_PRODUCTS = sql.query("list_products")
SEARCH_PRODUCTS = sql.query("search_products")
CREATE_PRODUCT = sql.query("create_product")
UPDATE_PRODUCT = sql.query("update_product")
DELETE_PRODUCT = sql.query("delete_product")

# What has a meaning of its own in LIKE, made to stand for itself.
_LITERAL = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


@dataclass(frozen=True, slots=True)
class Product:
    """`document` is JSON; `version` rises with every change, so it is the document's ETag."""

    document: str
    version: int


def read_product(router: Router, scope: Scope, store_id: UUID, product_id: UUID) -> Product:
    """Raises `NotFound` for the store or the product."""
    document, version = router.read(scope, store_id, READ_PRODUCT, {"product_id": product_id})
    if document is None:
        raise NotFound("There is no such product.")
    return Product(document, version)


def show_product(reads: CachedReads, router: Router, scope: Scope, store_id: UUID, product_id: UUID) -> Kept:
    """The product as its bytes and ETag, through the cache. Raises as `read_product`."""

    def load() -> Kept:
        document, version = router.read(scope, store_id, READ_PRODUCT, {"product_id": product_id})
        if document is None:
            return Kept(b"", absent=True, low=product_id, high=product_id)
        return Kept(document.encode(), str(version), low=product_id, high=product_id)

    kept = reads.read(scope, store_id, f"p:{product_id}", load)
    if kept.absent:
        raise NotFound("There is no such product.")
    return kept


def show_products(
    reads: CachedReads,
    router: Router,
    cursors: Cursors,
    scope: Scope,
    store_id: UUID,
    *,
    limit: int,
    cursor: str | None,
    q: str | None,
) -> Kept:
    """One page, newest first, as its bytes and ETag, through the cache.

    With `q` only the products where every word of it stands in title or description, in any case.
    """
    words = (q or "").split()
    listed = ("products", store_id, *words)
    before = cursors.before(cursor, *listed)
    parameters: dict[str, Any] = {"before": before, "limit": limit}
    query = LIST_PRODUCTS
    if words:
        patterns = [f"%{word.translate(_LITERAL)}%" for word in words]
        parameters |= {"longest_pattern": max(patterns, key=len), "patterns": patterns}
        query = SEARCH_PRODUCTS

    def load() -> Kept:
        row = router.read(scope, store_id, query, parameters)
        page = cursors.page(row, *listed)
        body = page.document()
        return Kept(
            body,
            hashlib.blake2b(body, digest_size=12).hexdigest(),
            page.next_cursor,
            # A change below the page's last product does not touch it, unless it makes or takes a next page.
            low=row[1] if page.next_cursor is not None else LOWEST_ID,
            high=UUID(int=before.int - 1) if cursor is not None else HIGHEST_ID,
        )

    asked = hashlib.blake2b(repr(words).encode(), digest_size=8).hexdigest() if words else ""
    return reads.read(scope, store_id, f"l:{limit}:{before}:{asked}", load)


def create_product(
    reads: CachedReads,
    router: Router,
    scope: Scope,
    store_id: UUID,
    *,
    title: str,
    description: str,
    price: int,
    stock: int,
    attributes: Mapping[str, Any],
) -> tuple[UUID, Product]:
    """A new product: its id and itself."""
    product_id = ids.new_id()
    parameters = {
        "product_id": product_id,
        "title": title,
        "description": description,
        "price": price,
        "stock": stock,
        "attributes": _json(attributes),
        "created_at": ids.timestamp(product_id),
    }
    with reads.changing(scope, store_id, Change([product_id], lists=True)):
        row = router.write(scope, store_id, CREATE_PRODUCT, parameters)
    assert row is not None
    return product_id, Product(*row)


def update_product(
    reads: CachedReads,
    router: Router,
    scope: Scope,
    store_id: UUID,
    product_id: UUID,
    *,
    changes: Mapping[str, Any],
    versions: list[int] | None,
) -> Product:
    """Change the named fields of a product, if its version is one of `versions` (None: whichever it is).

    No change at all is an answer too: the product as it is. Raises `NotFound` and `PreconditionFailed`.
    """
    if not changes:
        product = read_product(router, scope, store_id, product_id)
        if versions is not None and product.version not in versions:
            raise _changed_meanwhile()
        return product
    fields = {name: changes.get(name) for name in ("title", "description", "price", "stock")}
    attributes = _json(changes["attributes"]) if "attributes" in changes else None
    parameters = {**fields, "attributes": attributes, "product_id": product_id, "versions": versions}
    change = Change([product_id], lists="title" in changes or "description" in changes)
    with reads.changing(scope, store_id, change):
        row = router.write(scope, store_id, UPDATE_PRODUCT, parameters)
        assert row is not None
        document, version, exists = row
        change.happened = document is not None
    # A product that was deleted while this waited for its lock `exists` still, in the statement's snapshot.
    if not exists or (document is None and versions is None):
        raise NotFound("There is no such product.")
    if document is None:
        raise _changed_meanwhile()
    return Product(document, version)


def delete_product(
    reads: CachedReads, router: Router, scope: Scope, store_id: UUID, product_id: UUID
) -> None:
    """Raises `NotFound` where it is not there (any more)."""
    with reads.changing(scope, store_id, Change([product_id], lists=True)):
        row = router.write(scope, store_id, DELETE_PRODUCT, {"product_id": product_id})
    if row is None:
        raise NotFound("There is no such product.")


def _json(attributes: Mapping[str, Any]) -> str:
    return msgspec.json.encode(attributes).decode()


def _changed_meanwhile() -> PreconditionFailed:
    return PreconditionFailed("The product has another version than If-Match asks for.")
