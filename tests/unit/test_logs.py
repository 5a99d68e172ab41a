"""What stands in a line of the log, and what never does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import logs

ROOT = Path(__file__).parents[2]

SETUP = """
import logging, structlog, sys
from pathlib import Path
import logs
from config import Settings
logs.configure(Settings(Path("."), "", "", "", log_format=sys.argv[1]))
"""


def lines(program: str, log_format: str = "json") -> str:
    """What a process that runs this writes to standard error; its standard output has to stay empty."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SETUP + program, log_format],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


def objects(program: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(program).splitlines()]


def test_a_request_is_one_line_of_json_with_its_id() -> None:
    (line,) = objects(
        "logs.begin_request('r-1')\n"
        "logs.access('GET', '/v1/stores/7', '/v1/stores/{store_id}', 200, 0.0042,\n"
        "            store='7', shard='shard-0', node='shard-0-a', spent={'pool': 1e-5, 'db': 0.003},\n"
        "            sent=[('read_store', 'shard-0-a', 0.003)])"
    )
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request",
        "logger": "http",
        "method": "GET",
        "path": "/v1/stores/7",
        "route": "/v1/stores/{store_id}",
        "status": 200,
        "duration_ms": 4.2,
        "store": "7",
        "shard": "shard-0",
        "node": "shard-0-a",
        "pool_ms": 0.01,
        "db_ms": 3.0,
        "cache_ms": None,
        "request_id": "r-1",
    }


def test_every_line_of_a_request_carries_its_id_and_none_of_the_next() -> None:
    found = objects(
        "log = logs.get_logger('orders')\n"
        "logs.begin_request('r-1'); structlog.contextvars.bind_contextvars(order=7); log.info('placed')\n"
        "logging.getLogger('psycopg.pool').warning('lost one')\n"
        "logs.begin_request('r-2'); log.info('placed')"
    )
    assert [line["request_id"] for line in found] == ["r-1", "r-1", "r-2"]
    assert [line.get("order") for line in found] == [7, 7, None]
    assert [line["logger"] for line in found] == ["orders", "psycopg.pool", "orders"]


def test_a_slow_request_is_a_warning_and_a_failed_one_an_error_and_both_name_their_statements() -> None:
    rest = "sent=[('list_products', 'shard-0-b', 0.1), ('list_products', 'shard-0-a', 0.45678)])\n"
    found = objects(
        "".join(
            f"logs.access('GET', '/', '/', {status}, {seconds}, {rest}"
            for status, seconds in ((200, 0.6), (503, 0.001), (200, 0.4))
        )
    )
    assert [line["level"] for line in found] == ["warning", "error", "info"]
    slow, failed, well = found
    assert slow["statements"] == failed["statements"]
    assert slow["statements"] == [
        {"name": "list_products", "node": "shard-0-b", "ms": 100.0},
        {"name": "list_products", "node": "shard-0-a", "ms": 456.78},
    ]
    assert "statements" not in well


def test_a_request_that_tried_very_often_still_is_one_readable_line() -> None:
    (line,) = objects(
        "logs.access('GET', '/', '/', 503, 1.0, sent=[('read_store', str(n), 0.1) for n in range(500)])"
    )
    assert [each["node"] for each in line["statements"]] == [str(n) for n in range(480, 500)]


def test_secrets_are_struck_out_by_their_names() -> None:
    text = lines("logs.get_logger('x').info('signed in', password='hunter22', token='abc.def', email='a@b')")
    assert "hunter22" not in text
    assert "abc.def" not in text
    assert "a@b" in text


def test_secrets_are_struck_out_of_a_traceback_and_of_other_libraries_lines() -> None:
    text = lines(
        "try:\n    raise ValueError('connecting with password=hunter22 failed')\n"
        "except ValueError:\n"
        "    logs.get_logger('x').exception('no')\n"
        "    logging.getLogger('y').exception('at %s', 'redis://app:hunter23@127.0.0.1/0')"
    )
    assert "hunter" not in text
    assert text.count("ValueError") >= 2


@pytest.mark.parametrize(
    ("sentence", "struck_out"),
    [
        ("Authorization: Bearer sk_live.1-2_3", "Authorization: Bearer [struck out]"),
        ("host=a password='x y' dbname=m", "host=a password=[struck out] dbname=m"),
        ("postgresql://app:pa5s@127.0.0.1:1/m", "postgresql://app:[struck out]@127.0.0.1:1/m"),
        ("{'password': 'p', 'port': 1}", "{'password': [struck out], 'port': 1}"),
        ("/x?token=abc&limit=2", "/x?token=[struck out]&limit=2"),
        ("the token bucket is full", "the token bucket is full"),
    ],
)
def test_what_looks_like_a_credential_goes_and_the_rest_stays(sentence: str, struck_out: str) -> None:
    assert logs.strike_out_credentials(sentence) == struck_out


def test_a_line_that_is_no_unicode_is_written_all_the_same() -> None:
    (line,) = objects("logs.get_logger('x').info('file', name='\\udcff')")
    assert line["name"] == "\udcff"


def test_the_console_format_is_for_eyes() -> None:
    text = lines("logs.get_logger('x').info('placed', order=7)", "console")
    assert "placed" in text
    assert "order=7" in text
    assert not text.startswith("{")


def test_warnings_go_through_the_log() -> None:
    (line,) = objects(
        "import warnings; warnings.simplefilter('default'); warnings.warn('old', DeprecationWarning)"
    )
    assert line["logger"] == "py.warnings"
