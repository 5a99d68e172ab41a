"""Every operation of the document, called with what it takes and with what it must refuse.

`schemathesis` (https://schemathesis.readthedocs.io) makes the requests up from `/openapi.json` and holds each
answer against it: status, media type, headers, body. Its stateful phase follows what one answer says into the
next request.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.cluster_fixtures import Databases, Service, serving

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")

# How many requests an operation gets in each of the phases that have no end of their own.
EXAMPLES = 12

CONFIGURATION = f"""
hooks = {str(HOOKS)!r}
seed = 1
continue-on-failure = true
request-timeout = 10.0

[cache]
enabled = false

[generation]
max-examples = {EXAMPLES}
database = "none"

[auth.openapi.operator]
bearer = "${{OPERATOR_TOKEN}}"

[auth.openapi.merchant]
bearer = "${{MERCHANT_KEY}}"

[auth.openapi.session]
bearer = "${{SESSION_TOKEN}}"

[parameters]
"path.store_id" = "${{STORE_ID}}"

# A cart that was cleared is an empty cart, and no 404.
[[operations]]
include-path-regex = "/cart"
checks.use_after_free.enabled = false
"""


@pytest.fixture
def service(databases: Databases) -> Iterator[Service]:
    """One of its own: flags are turned, and many sign up, whose passwords are of no interest.

    Once the flag rate_limit is on, a limit that is met would hide what an operation answers.
    """
    limits = {f"rate_limit_{whom}": "100000/10" for whom in ("session", "key", "address", "store")}
    with serving(databases.settings, scrypt_log2_n=8, **limits) as running:
        yield running


def credentials(service: Service) -> dict[str, str]:
    """A store, with what opens it, as the configuration's variables."""

    def post(path: str, body: dict[str, str], bearer: str = "") -> dict[str, str]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        answer = requests.post(f"{service.base_url}{path}", json=body, headers=headers, timeout=10)
        answer.raise_for_status()
        created: dict[str, str] = answer.json()
        return created

    store = post("/v1/stores", {"name": "Fuzz", "currency": "EUR"}, service.operator_token)
    session = post(f"/v1/stores/{store['id']}/sessions", {})
    return {
        "BASE_URL": service.base_url,
        "OPERATOR_TOKEN": service.operator_token,
        "STORE_ID": store["id"],
        "MERCHANT_KEY": store["api_key"],
        "SESSION_TOKEN": session["token"],
    }


def test_every_operation_answers_as_the_document_says(service: Service, tmp_path: Path) -> None:
    environment = os.environ | credentials(service)
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION, encoding="utf-8")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            f"--config-file={configuration}",
            "run",
            f"{service.base_url}/openapi.json",
            "--checks=all",
            "--workers=1",  # its threads trip over CPython 3.11's syntax tree reader
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
