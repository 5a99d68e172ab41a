"""The OpenAPI document's fixed parts: the parameters and headers that endpoints name, tags, credentials.

Each is a component of the document, under the name that declarations use.
"""

from __future__ import annotations

from typing import Any

import flags

Json = dict[str, Any]

TAGS = {
    "stores": "Stores and their merchant keys.",
    "products": "What a store sells.",
    "customers": "Who signed up with a store.",
    "sessions": "A shopper's session, as a guest or signed in.",
    "cart": "What a session means to buy.",
    "orders": "What was bought: stock of every line, or of none.",
    "operator": "The shards behind the stores.",
    "ops": "For the people and programs that run the service.",
}

SECURITY_SCHEMES = {
    "operator": {"type": "http", "scheme": "bearer", "description": "The operator's token."},
    "merchant": {"type": "http", "scheme": "bearer", "description": "A merchant key; belongs to one store."},
    "session": {
        "type": "http",
        "scheme": "bearer",
        "description": "A shopper's session token; belongs to one store.",
    },
}

# Bodies that say more than their required fields would.
EXAMPLES: dict[str, Json] = {
    "FlagChange": {"enabled": True},
    "NewMove": {"store_id": "01990000-0000-7000-8000-000000000000", "to_shard": "shard-2"},
    "NewRange": {"high": "ffffffff-ffff-ffff-ffff-ffffffffffff", "shard": "shard-2"},
    "NewProduct": {"title": "Blue Mug", "description": "Holds 30 cl.", "price": 1250, "stock": 40},
    "ProductPatch": {"price": 1150},
}

_TEXT: Json = {"type": "string", "pattern": r"^[^\u0000]*$"}
_VALUE: Json = {"$ref": "#/components/schemas/JsonValue"}

# What an attribute may be: any JSON but U+0000, which PostgreSQL's text cannot hold.
JSON_VALUE: Json = {
    "anyOf": [
        {"type": ["null", "boolean", "number"]},
        _TEXT,
        {"type": "array", "items": _VALUE},
        {"type": "object", "propertyNames": _TEXT, "additionalProperties": _VALUE},
    ]
}

# What a Struct cannot say of its fields together.
TOGETHER: dict[str, Json] = {
    "NewSession": {"anyOf": [{"required": ["email", "password"]}, {"maxProperties": 0}]},
}


def _path_id(name: str, description: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "format": "uuid"},
    }


def _header_in(name: str, description: str, *, required: bool = False, **schema: Any) -> Json:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string"} | schema,
    }


PARAMETERS: dict[str, Json] = {
    "store_id": _path_id("store_id", "The store."),
    "product_id": _path_id("product_id", "The product."),
    "order_id": _path_id("order_id", "The order."),
    "move_id": _path_id("move_id", "The move."),
    "low": _path_id("low", "The first id of the range."),
    "key_id": _path_id("key_id", "The merchant key's id, not the key."),
    "name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The flag.",
        "schema": {"type": "string", "enum": list(flags.NAMES)},
    },
    "Idempotency-Key": _header_in(
        "Idempotency-Key",
        "Made up by the client, one for each order it means to place; a repeat with the same body gets the "
        "first answer again, byte for byte.",
        required=True,
        minLength=1,
        maxLength=255,
        pattern=r"^[!-~]+$",
        examples=["order-2f1c9a"],
    ),
    "If-Match": _header_in("If-Match", "An `ETag`: change the thing only if it still is that version."),
    "If-None-Match": _header_in("If-None-Match", "An `ETag`: answer 304 if the thing still is that version."),
    "Consistency-Token": _header_in(
        "Consistency-Token",
        "Of an earlier answer: this request sees what that one wrote or saw. Opaque; a cookie does as well.",
    ),
    "X-Request-Id": _header_in(
        "X-Request-Id",
        "Echoed where it is 1 to 128 of `A-Za-z0-9._-`, made up where not; in every log line of the request.",
    ),
}


def _header_out(description: str, *, required: bool = False, **schema: Any) -> Json:
    return {"description": description, "required": required, "schema": {"type": "string"} | schema}


def _items(*names: str) -> str:
    """What a List of quota policies or service limits looks like, as a pattern."""
    item = '"[a-z]+"' + "".join(f";{name}=[0-9]+" for name in names)
    return f"^{item}(, {item})*$"


HEADERS: dict[str, Json] = {
    "X-Request-Id": _header_out(
        "The request's own id, or the one that was made up for it.",
        required=True,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    ),
    "X-Served-By": _header_out("The node that answered, such as `shard-1-b`; `cache` where none was asked."),
    "X-Cache": _header_out("What the cache did.", enum=["hit", "miss", "bypass"]),
    "Server-Timing": _header_out(
        "Where the time went, in ms: `limit`, `session`, `route`, `pool`, `db`, `cache`, `lock`."
    ),
    "Consistency-Token": _header_out(
        "Send it with a later request, and that one sees what this one wrote or saw. Opaque."
    ),
    "Location": _header_out("The path of what was made.", required=True, format="uri-reference"),
    "ETag": _header_out("This version of the thing."),
    "Link": _header_out('The next page: `<...>; rel="next"`.'),
    "Idempotent-Replayed": _header_out("`true` where this is the first answer again.", enum=["true"]),
    "WWW-Authenticate": _header_out("`Bearer`."),
    "Retry-After": _header_out(
        "Seconds after which the same request may succeed.", type="integer", minimum=0
    ),
    "RateLimit-Policy": _header_out(
        "The quotas that apply while requests are limited, as draft-ietf-httpapi-ratelimit-headers-11 has it: of the "
        "session, the key, or without either the address, and of the store. `q` requests in any `w` seconds.",
        pattern=_items("q", "w"),
        examples=['"session";q=200;w=10, "store";q=10000;w=10'],
    ),
    "RateLimit": _header_out(
        "What is left of them: within `t` seconds no more than `r` requests are admitted. The one to heed comes first; "
        "on 429 its `t` is `Retry-After`.",
        pattern=_items("r", "t"),
        examples=['"session";r=0;t=7, "store";r=9421;t=1'],
    ),
}


def reference(kind: str, name: str) -> Json:
    """A Reference Object to `components/kind/name`."""
    return {"$ref": f"#/components/{kind}/{name}"}
