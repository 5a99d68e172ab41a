"""Products: anyone reads them, the store's merchant keeps them."""

from __future__ import annotations

import re
from uuid import UUID

from msgspec import UNSET

from errors import NotFound, PreconditionFailed
from handlers.call import Answer, Call
from handlers.endpoint import endpoint
from handlers.pages import link_to
from handlers.schemas import NewProduct, Product, ProductList, ProductPage, ProductPatch
from operations import products

_ETAG = re.compile(r'(W/)?"([^"]*)"')
_LONGEST_VERSION = 18  # more digits may not fit a bigint


@endpoint(
    "POST",
    "/v1/stores/{store_id}/products",
    who="merchant",
    body=NewProduct,
    status=201,
    answer=Product,
    answer_headers=("Location", "ETag"),
)
def create_product(call: Call, store_id: UUID) -> Answer:
    """Create a product."""
    body: NewProduct = call.body
    product_id, product = products.create_product(
        call.marketplace.reads,
        call.marketplace.router,
        call.scope,
        store_id,
        title=body.title,
        description=body.description,
        price=body.price,
        stock=body.stock,
        attributes=body.attributes,
    )
    location = f"/v1/stores/{store_id}/products/{product_id}"
    return Answer(product.document.encode(), 201, {"Location": location, "ETag": f'"{product.version}"'})


@endpoint(
    "GET",
    "/v1/stores/{store_id}/products",
    who="anyone",
    query=ProductPage,
    request_headers=("If-None-Match",),
    answer=ProductList,
    answer_headers=("Link", "ETag", "X-Cache"),
    other_statuses=(304,),
    errors=(NotFound,),
)
def list_products(call: Call, store_id: UUID) -> Answer:
    """List a store's products, newest first.

    With `q` only those in whose title or description every word of it stands, in any case. The first page has an
    ETag.
    """
    page = products.show_products(
        call.marketplace.reads,
        call.marketplace.router,
        call.marketplace.cursors,
        call.scope,
        store_id,
        limit=call.query.limit,
        cursor=call.query.cursor,
        q=call.query.q,
    )
    answer = Answer(page.body, headers={"X-Cache": call.scope.cache, **link_to(call, page.next_cursor)})
    return _conditional(call, answer, page.etag) if call.query.cursor is None else answer


@endpoint(
    "GET",
    "/v1/stores/{store_id}/products/{product_id}",
    who="anyone",
    request_headers=("If-None-Match",),
    answer=Product,
    answer_headers=("ETag", "X-Cache"),
    other_statuses=(304,),
    errors=(NotFound,),
)
def read_product(call: Call, store_id: UUID, product_id: UUID) -> Answer:
    """Read a product."""
    parts = call.marketplace
    product = products.show_product(parts.reads, parts.router, call.scope, store_id, product_id)
    return _conditional(call, Answer(product.body, headers={"X-Cache": call.scope.cache}), product.etag)


@endpoint(
    "PATCH",
    "/v1/stores/{store_id}/products/{product_id}",
    who="merchant",
    body=ProductPatch,
    request_headers=("If-Match",),
    answer=Product,
    answer_headers=("ETag",),
    errors=(NotFound, PreconditionFailed),
)
def update_product(call: Call, store_id: UUID, product_id: UUID) -> Answer:
    """Change some fields of a product.

    With `If-Match`, only where the product still has that ETag.
    """
    changes = {name: getattr(call.body, name) for name in ProductPatch.__struct_fields__}
    product = products.update_product(
        call.marketplace.reads,
        call.marketplace.router,
        call.scope,
        store_id,
        product_id,
        changes={name: value for name, value in changes.items() if value is not UNSET},
        versions=_versions(call.headers.get("If-Match")),
    )
    return Answer(product.document.encode(), headers={"ETag": f'"{product.version}"'})


@endpoint(
    "DELETE", "/v1/stores/{store_id}/products/{product_id}", who="merchant", status=204, errors=(NotFound,)
)
def delete_product(call: Call, store_id: UUID, product_id: UUID) -> Answer:
    """Delete a product. Orders that name it keep their lines."""
    parts = call.marketplace
    products.delete_product(parts.reads, parts.router, call.scope, store_id, product_id)
    return Answer(status=204)


def _conditional(call: Call, answer: Answer, tag: str) -> Answer:
    """The answer with its ETag, or 304 without a body where the client has it (RFC 9110 section 13.1.2)."""
    answer.headers["ETag"] = f'"{tag}"'
    asked = call.headers.get("If-None-Match")
    if asked is not None and (asked.strip() == "*" or tag in (match[1] for match in _ETAG.findall(asked))):
        answer.body, answer.status = b"", 304
    return answer


def _versions(if_match: str | None) -> list[int] | None:
    """The versions `If-Match` names, compared strongly (RFC 9110 section 13.1.1): a weak tag matches nothing."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = (tag for weak, tag in _ETAG.findall(if_match) if not weak)
    return [int(tag) for tag in tags if tag.isascii() and tag.isdigit() and len(tag) <= _LONGEST_VERSION]
