"""Settings, read once from the environment: the only module that looks at `os.environ`.

A value comes from the environment variable of its name, else from `$VAR/settings.json` (mode 0600, which the
embedded cluster writes), else from the default given here. Durations are seconds, sizes are connections.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from errors import ConfigurationError

ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service is told from outside. One field a variable, upper-cased."""

    # Where the data folder is; `settings.json` and the secrets of the embedded cluster lie there.
    var: Path

    # PostgreSQL. The catalog's DSN names every node that may hold it ("host=a,b port=1,2 dbname=catalog user=app
    # password=..."): libpq finds the one that accepts writes. Shards and their nodes are rows of the catalog;
    # every node takes the same role and password.
    catalog_dsn: str
    database_user: str
    database_password: str
    database_name: str = "marketplace"
    # For `flask shards migrate` and `status` only: the administrator's role. Empty where the service alone runs.
    admin_user: str = ""
    admin_password: str = ""

    # Redis-compatible servers: one for carts, sessions, cache and limits, or Sentinel's, or a cluster (see
    # parse_redis_url); the quorum of locks, comma-separated.
    redis_url: str = "redis://127.0.0.1:6379/0"
    # How long an answer of that server is waited for, by the one request that then finds it away.
    redis_patience_seconds: float = 0.07
    lock_urls: str = ""

    # Secrets. `secret_key` signs tokens and cursors; `operator_token` is the operator's bearer token.
    secret_key: str = ""
    operator_token: str = ""

    # Pools. See docs/pools.md for the arithmetic.
    pool_size: int = 4
    pool_max_waiting: int = 500
    pool_timeout_seconds: float = 1.0
    # How much of a pool one store may hold while others use it too. 1: all, but in turns; 0: first come, first served.
    store_pool_share: float = 0.75
    replica_pool_size: int = 2
    # How old a replica may be for a reader who has written nothing: beyond either, it is not read from. What a token
    # asks for is seen in any case.
    replica_max_lag_bytes: int = 16 * 1024 * 1024
    replica_max_lag_seconds: float = 10.0
    # Reads by node, such as "shard-0-b=2,shard-0-c=0"; 1 where a node is not named.
    replica_weights: str = ""  # see parse_weights
    # How long a read waits on a replica for the reader's own write to arrive, before the primary is asked.
    replica_wait_seconds: float = 0.01
    # How often a worker asks every node where it stands.
    replay_sample_seconds: float = 0.05
    connect_timeout_seconds: int = 2
    # A statement that takes longer is given up, by the server first and then by the client, which also covers a
    # server that is frozen and will not answer at all.
    statement_timeout_seconds: float = 5.0

    # How often a worker looks for new flags, a new shard map, revoked keys. Promised: a flag in 1 s, a key in 5 s.
    catalog_poll_seconds: float = 0.3
    revocation_poll_seconds: float = 1.0

    session_ttl_seconds: int = 30 * 24 * 3600
    cart_ttl_seconds: int = 7 * 24 * 3600
    idempotency_ttl_seconds: int = 48 * 3600
    # How long a credential's position is remembered: longer than a replica that is read may lag.
    position_ttl_seconds: int = 120

    # How many requests any window may hold, as QUOTA/SECONDS (see parse_quota): of a session, of a merchant key, of an
    # address without either, of a store. In force while the flag rate_limit is on.
    rate_limit_session: str = "200/10"
    rate_limit_key: str = "200/10"
    rate_limit_address: str = "200/10"
    rate_limit_store: str = "10000/10"
    # Whose X-Forwarded-For is believed: addresses and networks, comma-separated (see parse_networks).
    trusted_proxies: str = ""
    # How long a cached answer lives at most: how long a change is not seen that nobody told the cache of.
    cache_ttl_seconds: float = 1.5
    # The Redis-compatible server's memory above which nothing more is cached.
    cache_max_bytes: int = 256 * 1024 * 1024
    # How long an order's lock outlives a worker that died with it; what runs longer extends it.
    lock_ttl_seconds: float = 5.0

    # How long a store that was moved can be moved back with no write lost; then its old rows go.
    move_undo_seconds: float = 30.0
    # How many rows a second the mover copies at most, of all stores together, so that others hardly notice.
    move_rows_per_second: float = 8_000.0

    # scrypt's cost, as the logarithm of N; r = 8 and p = 5 are fixed (OWASP's 16 MiB setting is 14).
    scrypt_log2_n: int = 14

    port: int = 8000
    host: str = "127.0.0.1"
    workers: int = 2
    log_format: str = "auto"
    slow_request_seconds: float = 0.5
    metrics_dir: str = ""


def parse_weights(text: str) -> dict[str, int]:
    """From "shard-0-b=2,shard-0-c=0". Raises `ConfigurationError` where it does not say that."""
    weights = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        if not name.strip() or not number.strip().isdecimal():
            raise ConfigurationError(f"REPLICA_WEIGHTS: {part!r} is not NODE=WEIGHT")
        weights[name.strip()] = int(number)
    return weights


# A list of steps in a window stays below 5 bytes a hit up to 2^23 ms; and leaving out a larger quota's hits, all at
# once, would keep the Redis-compatible server from everything else for milliseconds.
_LONGEST_WINDOW_SECONDS, _LARGEST_QUOTA = 3600, 100_000


def parse_quota(name: str, text: str) -> tuple[int, int]:
    """Requests and seconds, from "200/10". Raises `ConfigurationError` where it does not say that."""
    quota, _, seconds = (part.strip() for part in text.partition("/"))
    numbers = [int(part) if part.isdecimal() and part.isascii() else 0 for part in (quota, seconds)]
    if not (0 < numbers[0] <= _LARGEST_QUOTA and 0 < numbers[1] <= _LONGEST_WINDOW_SECONDS):
        raise ConfigurationError(
            f"{name}={text!r} is not REQUESTS/SECONDS, up to {_LARGEST_QUOTA}/{_LONGEST_WINDOW_SECONDS}"
        )
    return numbers[0], numbers[1]


def parse_networks(name: str, text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """From "127.0.0.1,10.0.0.0/8,fd00::/8". Raises `ConfigurationError` where it does not say that."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error


_SENTINEL_PORT, _REDIS_PORT = 26379, 6379


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Who has the data: one server, the primary that `hosts` (sentinels) name for `service`, or the cluster of `hosts`.

    `one_server` is a URL as redis-py takes it, of one server of them, for signing in, database, TLS and options.
    """

    kind: Literal["server", "sentinel", "cluster"]
    one_server: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    tls: bool = False


def parse_redis_url(text: str) -> RedisUrl:
    """One server's URL, or `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../SERVICE[/DATABASE][?OPTIONS]`, or
    `redis+cluster://[USER:PASSWORD@]HOST[:PORT],...[?OPTIONS]`; `rediss+...` with TLS.

    Raises `ConfigurationError` where it does not say that, without repeating what may be a password.
    """
    scheme, _, rest = text.strip().partition("://")
    plain, _, kind = scheme.lower().partition("+")
    if plain not in ("redis", "rediss", "unix") or not rest:
        raise ConfigurationError(
            "REDIS_URL: begins with none of redis://, redis+sentinel://, redis+cluster://"
        )
    if not kind:
        _host_and_port(rest.partition("/")[0].rpartition("@")[2], 0)
        return RedisUrl("server", text.strip())
    if plain != "unix" and kind in ("sentinel", "cluster"):
        return _parse_fleet(plain, kind, rest)
    raise ConfigurationError(f"REDIS_URL: {scheme}:// is unknown")


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    try:
        place = urlsplit(f"//{text}")
        port = place.port
    except ValueError:  # says what it read, which is part of a password where that holds a / or an @
        raise ConfigurationError("REDIS_URL: what follows a host is no port") from None
    return place.hostname or "", port or default


def _parse_fleet(plain: str, kind: str, rest: str) -> RedisUrl:
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    sign_in, at, hosts = authority.rpartition("@")
    default = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
    found = tuple(_host_and_port(each.strip(), default) for each in hosts.split(","))
    if not all(host for host, _ in found):
        raise ConfigurationError("REDIS_URL: a host is missing")
    service, _, database = path.rstrip("/").partition("/")
    if kind == "cluster":
        service, database = "", service
        if database not in ("", "0"):
            raise ConfigurationError("REDIS_URL: a cluster has no other database than 0")
    elif not service:
        raise ConfigurationError("REDIS_URL: the sentinels' name for the primary is missing: .../SERVICE")
    if not (database or "0").isdecimal():
        raise ConfigurationError("REDIS_URL: the database is not a number")
    options = dict(parse_qsl(query, keep_blank_values=True))
    sentinel = {name: options.pop(f"sentinel_{name}", "") for name in ("username", "password")}
    host, port = found[0]
    one = f"{plain}://{sign_in}{at}{f'[{host}]' if ':' in host else host}:{port}/{database or 0}?{urlencode(options)}"
    return RedisUrl(
        "sentinel" if kind == "sentinel" else "cluster",
        one.rstrip("?"),
        found,
        service,
        sentinel["username"],
        sentinel["password"],
        tls=plain == "rediss",
    )


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises `ConfigurationError` naming the variable that is missing or wrong."""
    environ = os.environ if environ is None else environ
    var = Path(environ.get("VAR") or ROOT / "var").expanduser()
    if not var.is_absolute():
        var = ROOT / var
    stored = _stored(var / "settings.json")
    values: dict[str, object] = {"var": var}
    for field in fields(Settings):
        if field.name == "var":
            continue
        name = field.name.upper()
        raw = environ.get(name) or stored.get(name)
        if raw is None:
            continue
        values[field.name] = _convert(name, raw, str(field.type))
    missing = [f.name.upper() for f in fields(Settings) if f.name not in values and f.default is MISSING]
    if missing:
        raise ConfigurationError(
            f"{', '.join(missing)} not set, and {var / 'settings.json'} does not say: is the cluster up (make up)?"
        )
    settings = Settings(**values)  # type: ignore[arg-type]
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    parse_weights(settings.replica_weights)
    parse_redis_url(settings.redis_url)
    parse_networks("TRUSTED_PROXIES", settings.trusted_proxies)
    for whom in ("session", "key", "address", "store"):
        parse_quota(f"RATE_LIMIT_{whom.upper()}", getattr(settings, f"rate_limit_{whom}"))
    if not 0 <= settings.store_pool_share <= 1:
        raise ConfigurationError("STORE_POOL_SHARE must be from 0 to 1")
    if settings.lock_ttl_seconds < 1:
        raise ConfigurationError(
            "LOCK_TTL_SECONDS must be 1 or more: a lock is looked after four times a second"
        )
    if settings.position_ttl_seconds <= settings.replica_max_lag_seconds:
        raise ConfigurationError(
            "POSITION_TTL_SECONDS must be longer than REPLICA_MAX_LAG_SECONDS: what is forgotten is replayed by then"
        )


def _stored(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as error:
        raise ConfigurationError(f"{path} is not readable for this user") from error
    try:
        return {name: str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not a JSON object") from error


def _convert(name: str, raw: str, kind: str) -> object:
    try:
        return {"int": int, "float": float}.get(kind, str)(raw)
    except ValueError as error:
        raise ConfigurationError(f"{name}={raw!r} is not a number") from error
