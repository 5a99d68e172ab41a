"""One log: structlog for the service, and through it the standard library's loggers (psycopg.pool, gunicorn).

Every line goes to standard error, so that a command's standard output holds its answer alone. `LOG_FORMAT` is
`json` (one object a line), `console` (for eyes), or `auto`: console where standard error is a terminal, else
JSON.

`begin_request` binds the request's id to this greenlet or thread; every line until the next one carries it.
No line holds a secret: values under the names in `_SECRET_KEYS` are struck out, and so is whatever looks like
a credential in text that other libraries wrote.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from config import Settings

_SECRET_KEYS = frozenset(
    {
        "authorization",
        "cookie",
        "password",
        "token",
        "api_key",
        "secret",
        "secret_key",
        "operator_token",
        "dsn",
    }
)
Render = Callable[[WrappedLogger, str, EventDict], str]

_STRUCK_OUT = "[struck out]"

# What a credential looks like in another library's sentence: a bearer token; a named value, as in a DSN, a
# query string or a repr; the password in a URL.
_CREDENTIAL = re.compile(
    r"(?i)(\bbearer\s+)[^\s\"',;]+"
    r"|(\b(?:password|passwd|token|api_key|secret)[\"']?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&\"',;)]+)"
    r"|(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)"
)

_encode = msgspec.json.Encoder(enc_hook=str).encode
_requests: FilteringBoundLogger = structlog.get_logger("http")
_slow_request_seconds = 0.5
# Of a request that tried again and again, the latest: a line stays one that a person reads.
STATEMENTS_TOLD = 20


def configure(settings: Settings) -> None:
    """Set up both worlds. Called once a process, before its first line."""
    global _slow_request_seconds  # noqa: PLW0603 - a setting, read on every request
    _slow_request_seconds = settings.slow_request_seconds
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    render = _console_text() if console else _json_text
    shared: list[Processor] = [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if console else [structlog.processors.format_exc_info]),
        _strike_out,
    ]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[*shared, _bytes(render)],
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    _take_over_standard_loggers(shared, render)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines say which module they are from."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def begin_request(request_id: str) -> None:
    """Forget what the connection's last request had bound, and bind this one's id."""
    clear_contextvars()
    bind_contextvars(request_id=request_id)


def access(
    method: str,
    path: str,
    route: str | None,
    status: int,
    seconds: float,
    *,
    store: str | None = None,
    shard: str | None = None,
    node: str | None = None,
    spent: Mapping[str, float] = MappingProxyType({}),
    sent: Sequence[tuple[str, str, float]] = (),
) -> None:
    """Write a request's one line. `path` comes without its query string, which may hold anything.

    `spent`: seconds by the names of `Server-Timing`. `sent`: what was asked of PostgreSQL, as (query's name, node,
    seconds); it stands in the lines of those that were slow or failed.
    """
    failed, slow = status >= 500, seconds >= _slow_request_seconds  # noqa: PLR2004
    write = _requests.error if failed else _requests.warning if slow else _requests.info
    more = {}
    if sent and (slow or failed):
        more["statements"] = [
            {"name": name, "node": server, "ms": _milliseconds(took)}
            for name, server, took in sent[-STATEMENTS_TOLD:]
        ]
    write(
        "request",
        method=method,
        path=path,
        route=route,
        status=status,
        duration_ms=_milliseconds(seconds),
        store=store,
        shard=shard,
        node=node,
        pool_ms=_milliseconds(spent.get("pool")),
        db_ms=_milliseconds(spent.get("db")),
        cache_ms=_milliseconds(spent.get("cache")),
        **more,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _strike_out(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key in _SECRET_KEYS & event.keys():
        event[key] = _STRUCK_OUT
    if "exception" in event:
        event["exception"] = strike_out_credentials(event["exception"])
    return event


def strike_out_credentials(text: str) -> str:
    """The text without what looks like a credential."""
    return _CREDENTIAL.sub(lambda match: "".join(group or "" for group in match.groups()) + _STRUCK_OUT, text)


def _strike_out_sentence(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For other libraries' lines: their secrets, if any, stand in the sentence itself."""
    event["event"] = strike_out_credentials(str(event["event"]))
    return event


def _json_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # When, how bad and what stand first in every line, so that a person finds them without a tool.
    first = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event")}
    first.update(event)
    try:
        return _encode(first).decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8
        return json.dumps(first, default=str)


def _console_text() -> Render:
    colourful = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return strike_out_credentials(colourful(logger, method, event))

    return render


def _bytes(render: Render) -> Processor:
    """What `BytesLogger` writes, in one call a line: lines of several workers never mix."""
    return lambda logger, method, event: render(logger, method, event).encode(errors="backslashreplace")


def _take_over_standard_loggers(shared: Sequence[Processor], render: Render) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _strike_out_sentence],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.INFO)
    # gunicorn gives its loggers handlers of their own; the access line is ours.
    for name in ("gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Flask's development server writes an access line too, with the query string in it.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    logging.captureWarnings(True)
