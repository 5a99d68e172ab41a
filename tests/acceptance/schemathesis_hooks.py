"""What `schemathesis` has to be told of this API; loaded by it, see test_schemathesis.py.

The document cannot say which opaque values exist: a made-up cursor is refused with 400, a made-up `If-Match`
with 412, an `Idempotency-Key` of another body with 422, all rightly. So where a case is meant to be accepted,
the first two are left out, and the key is a new one.
"""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

import requests
import schemathesis

SESSIONS = f"{os.environ['BASE_URL']}/v1/stores/{os.environ['STORE_ID']}/sessions"
SESSION = f"Bearer {os.environ['SESSION_TOKEN']}"


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    headers = case.headers
    if case.meta is not None and case.meta.generation.mode.is_positive:
        case.query.pop("cursor", None)
        headers.pop("If-Match", None)
        if "Idempotency-Key" in headers:
            headers["Idempotency-Key"] = uuid4().hex
    signs_out = case.operation.label.startswith("DELETE") and case.path.endswith("/sessions/current")
    if signs_out and headers.get("Authorization") == SESSION:
        # Sign somebody else out: the session of the other cases is still needed.
        token = requests.post(SESSIONS, json={}, timeout=10).json()["token"]
        headers["Authorization"] = f"Bearer {token}"
