"""The cluster's passwords and tokens: made up once, kept in files that only their owner can read."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from devcluster.errors import ClusterError
from devcluster.layout import Layout
from devcluster.processes import write_private

ROLES = ("postgres", "app", "replication")
_SECRET_KEY = "secret_key"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True)
class Credentials:
    """Passwords by role and by the name of a Redis-compatible server, and the service's own two secrets."""

    passwords: dict[str, str]
    secret_key: str
    operator_token: str


def load(layout: Layout, valkeys: Iterable[str], environ: Mapping[str, str]) -> Credentials:
    """Those of the last run, or new ones. `OPERATOR_TOKEN` of the environment comes before the one kept."""
    stored: dict[str, str] = {}
    if layout.secrets.exists():
        stored = json.loads(layout.secrets.read_text())
    elif any(layout.data.glob("shard-*")):
        raise ClusterError(
            f"{layout.secrets} is gone, and the passwords with it: make clean deletes the data"
        )
    names = [*ROLES, *valkeys, _SECRET_KEY]
    complete = {name: secrets.token_urlsafe(32) for name in names} | stored
    if complete != stored:
        write_private(layout.secrets, json.dumps(complete, indent=2) + "\n")
    return Credentials(complete, complete[_SECRET_KEY], _operator_token(layout, environ))


def _operator_token(layout: Layout, environ: Mapping[str, str]) -> str:
    given = environ.get("OPERATOR_TOKEN", "")
    if given and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", given):  # RFC 6750 section 2.1
        raise ClusterError("OPERATOR_TOKEN may have letters, digits and . _ ~ + / - only, then =")
    kept = layout.operator_token.read_text().strip() if layout.operator_token.exists() else ""
    token = given or kept or secrets.token_urlsafe(32)
    if token != kept:
        write_private(layout.operator_token, token + "\n")
    return token
