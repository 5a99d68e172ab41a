"""Products: what merchants keep and everyone reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

import ids
import sql
from errors import NotFound, PreconditionFailed
from operations.pages import Cursors, Page
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


def list_products(
    router: Router,
    cursors: Cursors,
    scope: Scope,
    store_id: UUID,
    *,
    limit: int,
    cursor: str | None,
    q: str | None,
) -> Page:
    """One page, newest first; with `q` only where every word of it stands in title or description, in any case."""
    words = (q or "").split()
    listed = ("products", store_id, *words)
    parameters: dict[str, Any] = {"before": cursors.before(cursor, *listed), "limit": limit}
    if not words:
        return cursors.page(router.read(scope, store_id, LIST_PRODUCTS, parameters), *listed)
    patterns = [f"%{word.translate(_LITERAL)}%" for word in words]
    parameters |= {"longest_pattern": max(patterns, key=len), "patterns": patterns}
    return cursors.page(router.read(scope, store_id, SEARCH_PRODUCTS, parameters), *listed)


def create_product(
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
    row = router.write(
        scope,
        store_id,
        CREATE_PRODUCT,
        {
            "product_id": product_id,
            "title": title,
            "description": description,
            "price": price,
            "stock": stock,
            "attributes": _json(attributes),
            "created_at": ids.timestamp(product_id),
        },
    )
    assert row is not None
    return product_id, Product(*row)


def update_product(
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
    row = router.write(scope, store_id, UPDATE_PRODUCT, parameters)
    assert row is not None
    document, version, exists = row
    # A product that was deleted while this waited for its lock `exists` still, in the statement's snapshot.
    if not exists or (document is None and versions is None):
        raise NotFound("There is no such product.")
    if document is None:
        raise _changed_meanwhile()
    return Product(document, version)


def delete_product(router: Router, scope: Scope, store_id: UUID, product_id: UUID) -> None:
    """Raises `NotFound` where it is not there (any more)."""
    if router.write(scope, store_id, DELETE_PRODUCT, {"product_id": product_id}) is None:
        raise NotFound("There is no such product.")


def _json(attributes: Mapping[str, Any]) -> str:
    return msgspec.json.encode(attributes).decode()


def _changed_meanwhile() -> PreconditionFailed:
    return PreconditionFailed("The product has another version than If-Match asks for.")
