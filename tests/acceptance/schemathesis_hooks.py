"""What `schemathesis` has to be told of this API; loaded by it, see test_schemathesis.py.

The document cannot say which opaque values exist: a made-up cursor is refused with 400 and a made-up
`If-Match` with 412, both rightly. So where a case is meant to be accepted, they are left out.
"""

from __future__ import annotations

import os
from typing import Any

import requests
import schemathesis

SESSIONS = f"{os.environ['BASE_URL']}/v1/stores/{os.environ['STORE_ID']}/sessions"
SESSION = f"Bearer {os.environ['SESSION_TOKEN']}"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    headers = case.headers
    if case.meta is not None and case.meta.generation.mode.is_positive:
        case.query.pop("cursor", None)
        headers.pop("If-Match", None)
    signs_out = case.operation.label.startswith("DELETE") and case.path.endswith("/sessions/current")
    if signs_out and headers.get("Authorization") == SESSION:
        # Sign somebody else out: the session of the other cases is still needed.
        token = requests.post(SESSIONS, json={}, timeout=10).json()["token"]
        headers["Authorization"] = f"Bearer {token}"
