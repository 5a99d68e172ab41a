"""docs/settings.md names every variable there is, and none that is gone."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import config
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
    assert documented("Of the embedded cluster").keys() == programs | told | {"PYTHON"}


def test_every_variable_of_the_containers_is_documented() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert documented("Of the containers").keys() == set(re.findall(r"\$\{([A-Z_]+)", compose))


@pytest.mark.parametrize("required", ["CATALOG_DSN", "DATABASE_USER", "DATABASE_PASSWORD"])
def test_a_missing_setting_is_named(required: str, tmp_path: Path) -> None:
    given = {"VAR": str(tmp_path), "CATALOG_DSN": "x", "DATABASE_USER": "x", "DATABASE_PASSWORD": "x"}
    del given[required]
    with pytest.raises(ConfigurationError, match=required):
        config.load(given)
