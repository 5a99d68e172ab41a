"""The bodies, queries and answers of the API: checked by msgspec, written into the OpenAPI document.

A body refuses unknown fields. An answer's Struct documents the bytes PostgreSQL builds; tests hold them against it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType, field

from handlers.currencies import CURRENCIES

# PostgreSQL's text cannot hold U+0000.
_NO_NUL = r"^[^\u0000]*$"
# No white space, and spelled out: `\s` is not the same to Python and to JSON Schema. The look-ahead is for Python,
# whose `$` also stands before a line's end.
_EMAIL = r"^[^@\u0000-\u0020\u007f]+@[^@\u0000-\u0020\u007f]+$(?!\n)"

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=_NO_NUL, examples=["Corner Shop"])]
Title = Annotated[str, Meta(min_length=1, max_length=200, pattern=_NO_NUL, examples=["Blue Mug"])]
Description = Annotated[str, Meta(max_length=10_000, pattern=_NO_NUL)]
Price = Annotated[int, Meta(ge=0, le=10**12, description="In the currency's minor unit.", examples=[1250])]
Stock = Annotated[int, Meta(ge=0, le=10**9, description="Units there are.", examples=[40])]
Attributes = Annotated[
    dict[str, Any],
    Meta(
        description="Any JSON object, to 16 KiB.",
        extra_json_schema={
            "propertyNames": {"pattern": _NO_NUL},
            "additionalProperties": {"$ref": "#/components/schemas/JsonValue"},
        },
    ),
]
Quantity = Annotated[int, Meta(ge=1, le=10_000, examples=[2])]
CartQuantity = Annotated[int, Meta(ge=0, le=10_000, description="0 removes the line.", examples=[2])]
Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=254,
        pattern=_EMAIL,
        examples=["ada@example.com"],
    ),
]
Password = Annotated[str, Meta(min_length=8, max_length=1000, examples=["correct horse battery"])]
Currency = Annotated[
    str, Meta(description="ISO 4217.", examples=["EUR"], extra_json_schema={"enum": list(CURRENCIES)})
]
ShardName = Annotated[str, Meta(min_length=1, max_length=63, pattern=_NO_NUL, examples=["shard-2"])]
OrderStatus = Literal["pending", "paid", "fulfilled", "cancelled"]
MoneyTotal = Annotated[int, Meta(ge=0, description="In the currency's minor unit.")]


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """A request's body."""


class Empty(Body):
    """No fields."""


class NewStore(Body):
    name: Name
    currency: Currency


class NewProduct(Body):
    title: Title
    price: Price
    stock: Stock
    description: Description = ""
    attributes: Attributes = field(default_factory=dict)


class ProductPatch(Body):
    """Any of the fields; what is left out stays as it is."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    price: Price | UnsetType = UNSET
    stock: Stock | UnsetType = UNSET
    attributes: Attributes | UnsetType = UNSET


class NewCustomer(Body):
    email: Email
    name: Name
    password: Password


class NewSession(Body):
    """Empty for a guest; both fields to sign in."""

    email: Email | UnsetType = UNSET
    password: Password | UnsetType = UNSET


class CartItemQuantity(Body):
    quantity: CartQuantity


class OrderLine(Body):
    product_id: UUID
    quantity: Quantity


class NewOrder(Body):
    """Empty to check the cart out."""

    items: Annotated[list[OrderLine], Meta(min_length=1, max_length=100)] | UnsetType = UNSET


class FlagChange(Body):
    enabled: bool


class NewMove(Body):
    store_id: UUID
    to_shard: ShardName


class PinChange(Body):
    shard: ShardName


class NewRange(Body):
    high: Annotated[UUID, Meta(description="Where the range ends; this id is not in it any more.")]
    shard: ShardName


# Queries

Limit = Annotated[int, Meta(ge=1, le=100, description="Things a page.")]
CursorText = Annotated[str, Meta(description="`next_cursor` of the page before.")]
SearchText = Annotated[
    str, Meta(max_length=1000, pattern=_NO_NUL, description="Words, each in title or description.")
]


class Page(Struct, kw_only=True):
    limit: Limit = 20
    cursor: CursorText | None = None


class ProductPage(Page):
    q: SearchText | None = None


class OrderPage(Page):
    status: OrderStatus | None = None


# Answers

NextCursor = Annotated[str, Meta(description="Opaque; null on the last page.")] | None


class Store(Struct):
    id: UUID
    name: str
    currency: str
    created_at: datetime


class CreatedStore(Store):
    api_key: Annotated[str, Meta(description="The store's first merchant key, shown this once.")]
    api_key_id: UUID


class ApiKey(Struct):
    id: UUID
    api_key: Annotated[str, Meta(description="Shown this once.")]


class Product(Struct):
    id: UUID
    store_id: UUID
    title: str
    description: str
    price: int
    currency: str
    stock: int
    attributes: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime


class Customer(Struct):
    id: UUID
    email: str
    name: str
    created_at: datetime


class Session(Struct):
    token: str
    customer_id: UUID | None
    expires_in: Annotated[int, Meta(description="Seconds.")]


class CartLine(Struct):
    product_id: UUID
    quantity: int


class Cart(Struct):
    items: list[CartLine]
    expires_in: Annotated[int, Meta(description="Seconds until an untouched cart is forgotten.")]


class OrderItem(Struct):
    product_id: UUID
    title: str
    unit_price: int
    quantity: int


class Order(Struct):
    id: UUID
    store_id: UUID
    customer_id: UUID | None
    status: OrderStatus
    currency: str
    total: MoneyTotal
    items: list[OrderItem]
    created_at: datetime
    updated_at: datetime


class StoreList(Struct):
    data: list[Store]
    next_cursor: NextCursor


class ProductList(Struct):
    data: list[Product]
    next_cursor: NextCursor


class OrderList(Struct):
    data: list[Order]
    next_cursor: NextCursor


class CustomerList(Struct):
    data: list[Customer]
    next_cursor: NextCursor


class FlagSet(Struct):
    sharding: bool
    read_replicas: bool
    redis_cache: bool
    rate_limit: bool
    distributed_locks: bool


class PoolState(Struct):
    size: int
    available: int
    waiting: int


class NodeStatus(Struct):
    name: str
    role: Literal["primary", "replica", "unknown"]
    healthy: bool
    replay_lag_bytes: int | None
    replay_lag_seconds: float | None
    pool: PoolState


class HotStore(Struct):
    store_id: UUID
    requests_per_second: float
    statements_per_second: float
    postgres_ms_per_second: float
    share: float


class ShardStatus(Struct):
    name: str
    stores: int | None
    share: float
    nodes: list[NodeStatus]
    hot_stores: list[HotStore] | None


class Topology(Struct):
    epoch: int
    shards: list[ShardStatus]


class StoreRoute(Struct):
    shard: str
    reason: Literal["ring", "range", "pin", "sharding-off"]
    epoch: int


class RangeStatus(Struct):
    low: UUID
    high: Annotated[UUID, Meta(description="Not in the range any more.")]
    shard: str
    moving: Annotated[int, Meta(description="Stores of it that do not live where they belong yet.")]


class RangeList(Struct):
    data: list[RangeStatus]


class MoveStatus(Struct):
    id: UUID
    store_id: UUID
    from_shard: str
    to_shard: str
    state: Literal["copying", "catching_up", "verifying", "switching", "done", "failed", "rolled_back"]
    step: Annotated[str, Meta(description="What is being done, or waited for.")]
    rows_total: int | None
    rows_copied: int
    lag_bytes: Annotated[int | None, Meta(description="What the copy has yet to follow.")]
    write_pause_ms: Annotated[float | None, Meta(description="How long the store's writers waited.")]
    verify_ms: Annotated[float | None, Meta(description="Of it, for the comparison of both copies.")]
    started_at: datetime
    finished_at: datetime | None
    undo_until: Annotated[
        datetime | None, Meta(description="Up to when it can be undone with no write lost.")
    ]
    error: str | None
