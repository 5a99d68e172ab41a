"""What each package on the request's path costs: CPU microseconds a call, the best of seven rounds.

    .venv/bin/python -m bench.dependencies

Prints the table of docs/decisions/0002-dependencies.md. CPU time of the process is counted, not the clock, so that a
machine with other work on it says nearly the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

# prometheus_client looks for it when imported.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()

import msgspec
from flask import Flask
from werkzeug.test import EnvironBuilder

import logs
import metrics
from config import ROOT, Settings
from handlers.schemas import NewOrder
from ids import new_id

_CALLS, _ROUNDS = 5_000, 7


def _microseconds(call: Callable[[], object]) -> float:
    rounds = timeit.repeat(call, timer=time.process_time, number=_CALLS, repeat=_ROUNDS)
    return min(rounds) / _CALLS * 1e6


def _order() -> bytes:
    return json.dumps({"items": [{"product_id": str(new_id()), "quantity": 2} for _ in range(3)]}).encode()


def _flask() -> Callable[[], object]:
    app = Flask(__name__)
    app.add_url_rule("/<uuid:store_id>/empty", view_func=lambda **_parts: b"", endpoint="empty")
    environ = EnvironBuilder(path=f"/{new_id()}/empty").get_environ()
    return lambda: list(
        app.wsgi_app(dict(environ), lambda _status, _headers, _error=None: lambda _text: None)
    )


def _log_line() -> Callable[[], object]:
    logs.configure(Settings(Path(), "", "", "", log_format="json"))
    logger = logs.get_logger("bench")
    return lambda: logger.info(
        "request", method="GET", route="/v1/stores/<store_id>", status=200, duration_ms=1.5
    )


def _load_milliseconds(module: str) -> float:
    """The CPU time of a new process that imports it, less that of one that imports nothing."""

    def once(statement: str) -> float:
        program = f"import time; {statement}; print(time.process_time())"
        return float(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT))

    return min(once(f"import {module}") - once("pass") for _ in range(_ROUNDS)) * 1e3


def main() -> None:
    body = _order()
    decoder = msgspec.json.Decoder(NewOrder)
    calls = {
        "Flask: route one request to an empty answer": _flask(),
        "msgspec: decode and check an order of three lines": lambda: decoder.decode(body),
        "(json.loads of the same, which checks nothing)": lambda: json.loads(body),
        "prometheus-client: count and time a request": lambda: metrics.observe_request(
            "GET", "/x", 200, 0.002
        ),
    }
    for name, call in calls.items():
        print(f"| {name} | {_microseconds(call):.1f} µs |")
    # The lines themselves are of no interest here.
    with open(os.devnull, "w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            line = _microseconds(_log_line())
        finally:
            os.dup2(kept, 2)
    print(f"| structlog: one line of JSON | {line:.1f} µs |")
    for module in ("sql", "pglast", "faker", "rich", "handlers.swagger"):
        print(f"| import {module}, once a process | {_load_milliseconds(module):.0f} ms |")


if __name__ == "__main__":
    main()
