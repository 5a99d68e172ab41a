"""The documents: every link leads somewhere, and what they name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

import app  # noqa: F401 - declares the endpoints
from handlers.endpoint import ENDPOINTS
from handlers.openapi import document as openapi_document
from tests.unit.test_house_rules import FILES, ROOT

DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
# Alert rules and the page link to these.
RUNBOOK = [
    "a-replica-lags",
    "a-primary-dies",
    "redis-freezes",
    "a-shard-fills",
    "a-store-is-hot",
    "a-move-is-stuck",
    "requests-wait-for-connections",
]


def unfenced(text: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Without blocks of code, fenced or indented, and without spans of it."""
    unindented = re.sub(r"(?<=\n)\n(?: {4}[^\n]*\n|\n)+", "\n\n", unfenced(text))
    return re.sub(r"`[^`\n]+`", "", unindented)


def slug(heading: str) -> str:
    """As GitHub makes an anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    found: dict[str, int] = {}
    for heading in HEADING.findall(unfenced(text)):
        name = slug(heading)
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return set(found)


@cache
def anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text(encoding="utf-8"))


def links(path: Path) -> Iterator[str]:
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield unquote(target)


def leads_nowhere(document: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    there = (document.parent / name).resolve() if name else document
    if not there.exists():
        return True
    return bool(anchor) and there.suffix == ".md" and anchor not in anchors_of(there)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert [target for target in links(document) if leads_nowhere(document, target)] == []


def test_links_that_lead_nowhere_are_seen(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# One `of` them, here\n\n## Twice\n## Twice\n\n[a](a.md#one-of-them-here) [b](#twice-1) [c](#thrice)\n"
        "[d](b.md) [e](https://a/b.md) `[f](c.md)`\n\n    [g](d.md)\n\n![h](picture.png)\n"
    )
    found = [target for target in links(document) if leads_nowhere(document, target)]
    assert found == ["#thrice", "b.md", "picture.png"]


def test_every_page_of_docs_is_linked_from_another_one() -> None:
    linked = {
        (document.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for target in links(document)
        if target.partition("#")[0]
    }
    pages = [path for path in DOCUMENTS if path.parent == ROOT / "docs"]
    assert [path.name for path in pages if path not in linked] == []


def test_the_runbook_has_the_sections_that_others_link_to() -> None:
    assert set(RUNBOOK) <= anchors_of(ROOT / "docs" / "operations.md")


def test_every_path_that_the_api_page_names_is_in_the_openapi_document() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = openapi_document(ENDPOINTS)["paths"]
    named = re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/v1[^`\s]*)`", text)
    assert len(named) > 10
    assert [f"{method} {path}" for method, path in named if method.lower() not in paths.get(path, {})] == []
    # In commands a store's part of the path is a variable, $B, and so are ids.
    asked = {re.sub(r"\$\w+", "{}", path) for path in re.findall(r"\$H(/v1[\w/$-]*)", text)}
    asked |= {
        re.sub(r"\$\w+", "{}", f"/v1/stores/{{}}{path}") for path in re.findall(r"\$B(/[\w/$-]+)", text)
    }
    known = {re.sub(r"{\w+}", "{}", path) for path in paths}
    assert asked - known - {"/v1/stores/{}"} == set()


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_a_drawing_says_what_it_shows_and_runs_nothing(picture: Path) -> None:
    tree = ElementTree.parse(picture)  # noqa: S314 - our own
    names = [element.tag.rpartition("}")[2] for element in tree.iter()]
    assert {"title", "desc"} <= set(names)
    assert "script" not in names
    assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")
    attributes = [name for element in tree.iter() for name in element.attrib]
    assert [name for name in attributes if name.startswith("on") or name.endswith("href")] == []
