"""The benchmark's report, of summaries made up here: what it says, and that what comes from the file stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.report import write_report
from bench.report.content import k6_pages
from bench.report.markdown import escaped
from bench.report.summary import SummaryError, read_summary
from tests.summaries import five_stages, stage, summary

EVIL = '<script src="https://elsewhere.example/x.js">alert(1)</script> | `a` $x_1$ ]]> & "q"'


def report(folder: Path, document: object) -> tuple[str, str]:
    """(Markdown, HTML)"""
    (folder / "summary.json").write_text(json.dumps(document), encoding="utf-8")
    markdown, page = write_report(folder)
    return markdown.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Markdown and HTML of five stages, one of which has a page of k6's own."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "k6-+cache.html").write_text("", encoding="utf-8")
    return report(folder, five_stages())


class Page(HTMLParser):
    """The tags with their attributes, and what is told by ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def test_all_five_stages_have_their_pictures_and_their_words(five: tuple[str, str]) -> None:
    markdown, page = five
    for text in (markdown, page):
        assert "p99 fell from 4,200 to 80 ms, by a factor of 52.5" in text
        assert "At p99 +replicas helped the most: by a factor of 13.5." in text
        assert "Worse at p99 than the stage before: everything." in text
        assert "At p99 not to be told from noise: +cache." in text
        assert "8,000 requests (26.7 % of the load) were never sent" in text
        assert "Overloaded: baseline." in text
        assert "shard-0-a for 24.5 s in a stage of 30 s" in text
    assert "The cache answered 83 % of what it was asked." in page
    assert page.count("<svg") == 10
    assert "budgets.enforced" in page


def test_the_page_refers_to_nothing_outside(five: tuple[str, str]) -> None:
    _, text = five
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
        "base",
    } == set()
    assert page.values("src") == []
    assert [value for value in page.values("href") if not value.startswith("#")] == ["k6-%2Bcache.html"]
    assert "://" not in text
    assert "@import" not in text
    assert all(found.startswith("url(#") for found in re.findall(r"url\([^)]*\)", text))


def test_every_id_is_there_once_and_every_reference_leads_to_one(five: tuple[str, str]) -> None:
    _, text = five
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = {name for value in page.values("aria-labelledby") for name in value.split()}
    named |= {value[1:] for value in page.values("href") if value.startswith("#")} | set(
        re.findall(r"url\(#([^)]+)\)", text)
    )
    assert named - set(ids) == set()


def test_every_picture_has_a_title_and_says_its_figures(five: tuple[str, str]) -> None:
    _, text = five
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert all(
        re.search(r'role="img"', each) and re.search("<title[^>]*>[^<]+</title>", each) for each in pictures
    )
    assert all(re.search("<desc[^>]*>[^<]*baseline[^<]*</desc>", each) for each in pictures)
    assert "#0a0" not in text  # a colour that the page does not know, and would not change in the dark


def test_what_comes_from_the_file_stays_text(tmp_path: Path) -> None:
    evil = stage(
        EVIL, 10, errors={EVIL: 5}, error_rate=0.1, faults=[EVIL], statements={EVIL: 9}, kinds={EVIL: {"p50_ms": 1}},
        flags={EVIL: True},
    )  # fmt: skip
    document = summary(evil, commit=EVIL, machine={EVIL: EVIL}, settings={EVIL: [EVIL]}, versions=EVIL)
    markdown, text = report(tmp_path, document)
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "img"} == set()
    assert "<script" not in text
    assert "&lt;script" in text
    assert re.search(r"<text[^>]*>[^<]*\$x_1\$", text)  # not a formula
    assert not re.search(r"(?<!\\)<script", markdown)
    cells = [line for line in markdown.splitlines() if line.startswith("|") and "elsewhere" in line]
    assert cells
    assert all(re.search(r"(?<!\\)\$", line) is None for line in cells)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", "..", "x\0y"])
def test_a_stage_s_name_leads_nowhere_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "results"
    for path in ("k6-../outside.html", "k6-/outside.html", "k6-a/b.html", "outside.html", "k6-+cache.html"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("", encoding="utf-8")
    (folder / "summary.json").write_text(
        json.dumps(summary(stage(name, 10), stage("+cache", 10), stage("everything", 10)))
    )
    stages = read_summary(folder / "summary.json").stages
    assert [link.address for link in k6_pages(stages, folder)] == ["k6-%2Bcache.html"]


def test_markdown_keeps_a_cell_on_one_line_and_within_its_cell() -> None:
    assert escaped("a | b\n# c <i> *d*") == r"a \| b \# c \<i\> \*d\*"


def test_a_letter_that_the_font_lacks_is_no_trouble(tmp_path: Path) -> None:
    _, page = report(tmp_path, summary(stage("基準 😀", 10)))
    assert "基準 😀" in page


@pytest.mark.parametrize(
    "document",
    [
        {"stages": []},
        {"stages": [{}]},
        {"stages": [{"name": "baseline"}, {"name": "everything", "p99_ms": 3}]},
        {
            "stages": [
                {
                    "name": None,
                    "p99_ms": "fast",
                    "rounds": 3,
                    "errors": [],
                    "over_time": [{}],
                    "percentiles": [[1]],
                }
            ]
        },
        {"stages": ["baseline", None]},
        summary(stage("baseline", 10)),
        summary({**stage("baseline", 10), "requests": 0, "requests_per_second": 0}),
        summary(stage("baseline", float("nan")), stage("everything", float("inf"))),
        summary(stage("baseline", 1e308, requests=10**400)),
        summary(
            stage("baseline", 0, percentiles=[[100, 5], [50, 0]], over_time=[{"second": 0, "p99_ms": 0}])
        ),
        summary(
            stage("baseline", None, error_rate=1, errors={"connection refused": 9}, percentiles=[], rounds=[])
        ),
        summary(*(stage(f"stage {n}", n + 1) for n in range(12))),
    ],
    ids=[
        "none",
        "empty",
        "bare",
        "nonsense",
        "no-objects",
        "one",
        "no-requests",
        "not-finite",
        "beyond-all-bounds",
        "zeros",
        "dead",
        "twelve",
    ],
)
def test_a_summary_with_little_in_it_still_has_a_report(tmp_path: Path, document: object) -> None:
    markdown, page = report(tmp_path, document)
    assert markdown.startswith("# What each layer buys")
    assert "</html>" in page


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stages": 3}'])
def test_what_is_no_summary_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(SummaryError, match=r"summary\.json"):
        write_report(tmp_path)


def test_the_same_summary_makes_the_same_page(tmp_path: Path, five: tuple[str, str]) -> None:
    (tmp_path / "k6-+cache.html").write_text("", encoding="utf-8")
    assert report(tmp_path, five_stages()) == five
