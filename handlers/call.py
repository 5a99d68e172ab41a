"""What a handler gets, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from operations.credentials import Credential
    from operations.marketplace import Marketplace
    from routing.scope import Scope


@dataclass(slots=True)
class Call:
    """One request, checked: a handler reads nothing else."""

    marketplace: Marketplace
    scope: Scope
    credential: Credential | None
    body: Any  # the endpoint's body Struct
    query: Any  # the endpoint's query Struct
    headers: Headers


@dataclass(slots=True)
class Answer:
    """One answer: `body` is JSON, ready to send."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
