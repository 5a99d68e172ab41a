"""docs/settings.md names every variable there is, and none that is gone."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import config
from bench.run import options
from config import RedisUrl
from devcluster.__main__ import _VARIABLES
from errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def documented(heading: str) -> dict[str, str]:
    """The section's variables and what stands as their default."""
    section = next(section for section in SECTIONS if section.startswith(heading))
    return dict(re.findall(r"^\| `([A-Z0-9_]+)` \| ([^|]*) \|", section, re.MULTILINE))


def written(default: object) -> str:
    return f"`{default}`" if default != "" else "empty"


def test_every_setting_of_the_service_is_documented_with_its_default() -> None:
    required = {"CATALOG_DSN", "DATABASE_USER", "DATABASE_PASSWORD"}
    expected = {
        field.name.upper(): "required" if field.name.upper() in required else written(field.default)
        for field in fields(config.Settings)
    }
    assert documented("Of the service") == expected | {"VAR": "`./var`"}


def test_every_variable_of_make_is_documented() -> None:
    programs = set(re.findall(r"^  ([A-Z_]+)", _VARIABLES, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    told = {
        name
        for line in re.findall(r"##(.*)", makefile)
        for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", line)
    }
    elsewhere = set(documented("Of the benchmark"))
    assert documented("Of the embedded cluster").keys() == programs | (told - elsewhere) | {"PYTHON"}


def test_every_variable_of_the_benchmark_is_documented() -> None:
    parsed = vars(options.parser({}).parse_args([]))
    told = {name.upper() for name, value in parsed.items() if not isinstance(value, bool)}
    found = documented("Of the benchmark")
    assert found.keys() == told | {"BENCH_ARGS"}
    assert {
        kind: float(found[f"BUDGET_{kind.upper()}"].strip("`")) for kind in options.BUDGETS
    } == options.BUDGETS


def test_every_variable_of_the_tests_is_documented() -> None:
    read = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r'environ\.get\("(EVERY_[A-Z]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert documented("Of the tests").keys() == read


def test_every_variable_of_the_containers_is_documented() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert documented("Of the containers").keys() == set(re.findall(r"\$\{([A-Z_]+)", compose))


@pytest.mark.parametrize("required", ["CATALOG_DSN", "DATABASE_USER", "DATABASE_PASSWORD"])
def test_a_missing_setting_is_named(required: str, tmp_path: Path) -> None:
    given = {"VAR": str(tmp_path), "CATALOG_DSN": "x", "DATABASE_USER": "x", "DATABASE_PASSWORD": "x"}
    del given[required]
    with pytest.raises(ConfigurationError, match=required):
        config.load(given)


# Where Redis is


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://ada:secret@[::1]:6379/3?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_a_url_of_one_server_stays_what_it_is(url: str) -> None:
    assert config.parse_redis_url(url) == RedisUrl("server", url)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        (
            "redis+sentinel://a,b:26380,[fd00::1]:26381/shop",
            RedisUrl(
                "sentinel",
                "redis://a:26379/0",
                (("a", 26379), ("b", 26380), ("fd00::1", 26381)),
                "shop",
            ),
        ),
        (
            "REDISS+SENTINEL://ada:p%40ss@a:1,b:2/shop/3?sentinel_username=s&sentinel_password=p%26w&ssl_ca_certs=ca.pem",
            RedisUrl(
                "sentinel",
                "rediss://ada:p%40ss@a:1/3?ssl_ca_certs=ca.pem",
                (("a", 1), ("b", 2)),
                "shop",
                "s",
                "p&w",
                tls=True,
            ),
        ),
        (
            "redis+cluster://:secret@a,[::1]:7001/0",
            RedisUrl("cluster", "redis://:secret@a:6379/0", (("a", 6379), ("::1", 7001))),
        ),
        (
            "rediss+cluster://[::1]",
            RedisUrl("cluster", "rediss://[::1]:6379/0", (("::1", 6379),), tls=True),
        ),
    ],
)
def test_sentinels_and_clusters_are_named_by_a_url(url: str, meant: RedisUrl) -> None:
    assert config.parse_redis_url(url) == meant


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6379",
        "http://:secret@a",
        "redis://",
        "redis://:secret@a:port",
        "redis+elsewhere://:secret@a",
        "unix+cluster://:secret@a",
        "redis+sentinel://:secret@a:26379",
        "redis+sentinel://:secret@a,,b/shop",
        "redis+sentinel://:secret@a/shop/first",
        "redis+sentinel://:secret@a:99999/shop",
        "redis+cluster://:secret@/0",
        "redis+cluster://:secret@a/1",
        "redis+cluster://:se/cret@a",
        "redis+cluster://:secret@[::1",
    ],
)
def test_a_url_that_says_nothing_is_refused_without_telling_the_password(url: str, tmp_path: Path) -> None:
    given = {"VAR": str(tmp_path), "CATALOG_DSN": "x", "DATABASE_USER": "x", "DATABASE_PASSWORD": "x"}
    with pytest.raises(ConfigurationError, match="REDIS_URL") as refused:
        config.load(given | {"REDIS_URL": url})
    assert "cret" not in str(refused.value)
    assert refused.value.__cause__ is None
