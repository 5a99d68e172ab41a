"""The benchmark's report, of summaries made up here: what it says, and that what comes from the file stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.report import write_report
from bench.report.compare import Verdict, difference
from bench.report.content import k6_pages
from bench.report.markdown import escaped
from bench.report.summary import Stage, SummaryError, read_summary
from bench.report.words import of_stage, what_one_sees

STAGES = ("baseline", "+replicas", "+cache", "+sharding", "everything")
EVIL = '<script src="https://elsewhere.example/x.js">alert(1)</script> | `a` $x_1$ ]]> & "q"'

CURVE = ((50, 0.1), (90, 0.4), (99, 1), (99.9, 2), (99.99, 3))


def stage(name: str, p99_ms: float | None, **more: Any) -> dict[str, Any]:
    """A stage as the runner writes it, with three rounds that are 4 % apart."""
    near = [] if p99_ms is None else [p99_ms * part for part in (0.98, 1, 1.02)]
    found = {
        "name": name,
        "p50_ms": p99_ms and p99_ms / 8,
        "p95_ms": p99_ms and p99_ms / 2,
        "p99_ms": p99_ms,
        "p999_ms": p99_ms and p99_ms * 2,
        "max_ms": p99_ms and p99_ms * 3,
        "requests": 30000,
        "requests_per_second": 1000,
        "error_rate": 0,
        "wrong_answers": 0,
        "dropped_iterations": 0,
        "cpu_seconds": {"http": 20, "postgres": 12, "redis": 1, "k6": 6},
        "cpu_seconds_by_node": {"shard-0-a": 8, "shard-0-b": 2, "shard-1-a": 2},
        "statements": {"shard-0-a": 20000, "shard-0-b": 100, "shard-1-a": 0},
        "rows": {"shard-0-a": 200000, "shard-0-b": 0},
        "wal_bytes": {"shard-0-a": 30_000_000},
        "throttled_seconds": {"shard-0-a": 0.1},
        "cache_hit_rate": None,
        "replica_lag_bytes": {"p50": 200, "max": 1_400_000},
        "pool_wait_ms": {"p50": 0.1, "p99": 2.5},
        "errors": {},
        "kinds": {
            kind: {"requests": 1000, "p50_ms": p99_ms and p99_ms / 9, "p99_ms": p99_ms} for kind in ("list", "order")
        },
        "over_time": [{"second": n, "p50_ms": 5 + n % 3, "p99_ms": p99_ms, "errors": 0} for n in range(30)],
        "percentiles": [[p, (p99_ms or 1) * part] for p, part in CURVE],
        "rounds": [{"p99_ms": value, "requests_per_second": 1000} for value in near],
        "faults": [],
    }  # fmt: skip
    return {**found, **more}


def summary(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = {
        "commit": "abc123",
        "started_at": "2026-11-23T12:00:00Z",
        "machine": {"cpus": 2, "memory_bytes": 8_000_000_000},
        "versions": {"postgres": "18.6", "k6": "1.1.0"},
        "settings": {"rate": 1000, "rounds": 3, "budgets": {"postgres": 0.12, "enforced": "cgroup v1"}},
    }
    return {**found, **more, "stages": list(stages)}


def five_stages() -> dict[str, Any]:
    dropped = {"dropped_iterations": 8000, "requests": 22000, "requests_per_second": 733, "error_rate": 0.021}
    return summary(
        stage(
            "baseline", 4200, **dropped, errors={"503": 400, "timeout": 62}, throttled_seconds={"shard-0-a": 24.5},
            rounds=[{"p99_ms": value, "requests_per_second": 733} for value in (3900, 4200, 4700)],
        ),
        stage("+replicas", 310, statements={"shard-0-a": 8000, "shard-0-b": 12000, "shard-1-a": 0}),
        stage("+cache", 305, cache_hit_rate=0.83, statements={"shard-0-a": 7000, "shard-0-b": 2000, "shard-1-a": 0}),
        stage("+sharding", 61, statements={"shard-0-a": 3600, "shard-0-b": 900, "shard-1-a": 3500, "shard-1-b": 1100}),
        stage("everything", 80, flags={"sharding": True, "rate_limit": True}),
    )  # fmt: skip


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


def sees(folder: Path, document: object) -> list[str]:
    """All that is said, in its order."""
    (folder / "summary.json").write_text(json.dumps(document), encoding="utf-8")
    found = read_summary(folder / "summary.json")
    of_stages = [
        each for n, s in enumerate(found.stages) for each in of_stage(s, found.stages[n - 1] if n else None)
    ]
    return [remark.text for remark in (*what_one_sees(found), *of_stages)]


def read(folder: Path, *stages: dict[str, Any]) -> list[Stage]:
    (folder / "summary.json").write_text(json.dumps(summary(*stages)), encoding="utf-8")
    return list(read_summary(folder / "summary.json").stages)


def said(before: Stage, after: Stage) -> str:
    return " ".join(remark.text for remark in of_stage(after, before))


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
    stages = read(folder, stage(name, 10), stage("+cache", 10), stage("everything", 10))
    assert [link.address for link in k6_pages(stages, folder)] == ["k6-%2Bcache.html"]


def test_markdown_keeps_a_cell_on_one_line_and_within_its_cell() -> None:
    assert escaped("a | b\n# c <i> *d*") == r"a \| b \# c \<i\> \*d\*"


def test_what_rounds_do_not_tell_apart_is_called_noise(tmp_path: Path) -> None:
    before, after = read(tmp_path, stage("+replicas", 310), stage("+cache", 305))
    assert "p99 is within noise (310 and 305 ms)" in said(before, after)
    assert "No difference to +replicas that could be told from noise" in said(before, after)


def test_rounds_that_overlap_are_noise_however_far_the_medians_are_apart(tmp_path: Path) -> None:
    wide = [
        stage(str(n), p99, rounds=[{"p99_ms": v} for v in (50, p99, 400)]) for n, p99 in enumerate((100, 300))
    ]
    before, after = read(tmp_path, *wide)
    found = difference(before, after, "p99_ms")
    assert found is not None
    assert found.verdict is Verdict.NOISE


def test_a_difference_of_less_than_a_twentieth_is_noise_however_quiet_the_rounds(tmp_path: Path) -> None:
    quiet = [[{"p99_ms": value}, {"p99_ms": value}] for value in (100, 104, 106)]
    near = read(tmp_path, *(stage(str(n), each[0]["p99_ms"], rounds=each) for n, each in enumerate(quiet)))
    found = [difference(near[0], other, "p99_ms") for other in near[1:]]
    assert [each and each.verdict for each in found] == [Verdict.NOISE, Verdict.WORSE]


def test_a_stage_that_got_worse_is_said_to_be_worse(tmp_path: Path) -> None:
    before, after = read(tmp_path, stage("+sharding", 61), stage("everything", 80))
    remarks = of_stage(after, before)
    worse = [
        remark
        for remark in remarks
        if "Worse than +sharding: p99 rose from 61 to 80 ms, by 31.1 %" in remark.text
    ]
    assert [remark.bad for remark in worse] == [True]


def test_more_requests_a_second_are_better(tmp_path: Path) -> None:
    slow = stage("a", 10, requests_per_second=500, rounds=[{"requests_per_second": 500}] * 2)
    fast = stage("b", 10, requests_per_second=900, rounds=[{"requests_per_second": 900}] * 2)
    before, after = read(tmp_path, slow, fast)
    found = difference(before, after, "requests_per_second")
    assert found is not None
    assert found.verdict is Verdict.BETTER


def test_many_refusals_a_second_are_no_throughput(tmp_path: Path) -> None:
    good = stage("a", 10, requests_per_second=500, good_requests_per_second=500)
    refusing = stage("b", 10, requests_per_second=900, good_requests_per_second=90)
    for each in (good, refusing):
        each["rounds"] = [
            {k: each[k] for k in ("p99_ms", "requests_per_second", "good_requests_per_second")}
        ] * 2
    before, after = read(tmp_path, good, refusing)
    assert "Worse than a: p99 stayed at 10 ms; good answers fell from 500 to 90 a second" in said(
        before, after
    )


def test_errors_of_all_rounds_are_shown_by_their_share_of_one(tmp_path: Path) -> None:
    (found,) = read(tmp_path, stage("a", 10, requests=1000, error_rate=0.1, errors={"503": 225, "429": 75}))
    assert found.errors_by_share == {"503": 75, "429": 25}


@pytest.mark.parametrize(
    ("enforced", "told"),
    [
        (True, "Each node had a CPU budget"),
        (False, "No node had a CPU budget: all of them share the machine's."),
    ],
)
def test_it_says_whether_a_node_more_was_capacity_more(tmp_path: Path, *, enforced: bool, told: str) -> None:
    document = summary(stage("baseline", 10), settings={"budgets_enforced": enforced})
    assert any(text.startswith(told) for text in sees(tmp_path, document))


def test_a_letter_that_the_font_lacks_is_no_trouble(tmp_path: Path) -> None:
    _, page = report(tmp_path, summary(stage("基準 😀", 10)))
    assert "基準 😀" in page


def test_with_one_round_no_difference_is_claimed_without_a_doubt(tmp_path: Path) -> None:
    one = [
        stage(name, p99, rounds=[{"p99_ms": p99}])
        for name, p99 in (("baseline", 400.0), ("everything", 40.0))
    ]
    told = " ".join(sees(tmp_path, summary(*one)))
    assert "no difference can be told from noise" in told
    assert "p99 fell from 400 to 40 ms, by a factor of 10, by one round each" in told


def test_the_spread_stands_in_for_rounds_that_are_not_listed(tmp_path: Path) -> None:
    (found,) = read(tmp_path, stage("baseline", 10, rounds=[], spread={"p99_ms": [9, 12]}))
    assert found.range_of("p99_ms") == (9, 12)


def test_what_left_one_node_and_came_to_another_is_counted_for_each_request(tmp_path: Path) -> None:
    before, after = read(
        tmp_path,
        stage("baseline", 10, requests=1000, statements={"shard-0-a": 2000, "shard-0-b": 0}),
        stage("+replicas", 10, requests=2000, statements={"shard-0-a": 1000, "shard-0-b": 3000}),
    )
    expected = (
        "Statements, for 1,000 requests: less on shard-0-a (2,000 → 500); more on shard-0-b (0 → 1,500)."
    )
    assert expected in said(before, after)


def test_the_service_s_own_cpu_does_not_hide_that_of_the_databases(tmp_path: Path) -> None:
    cpu = {"http": 30.0, "shard-0-a": 2.0}
    before, after = read(
        tmp_path,
        stage("baseline", 10, statements={"shard-0-a": 9}, cpu_seconds_by_node=cpu),
        stage("+cache", 10, statements={"shard-0-a": 9}, cpu_seconds_by_node={**cpu, "shard-0-a": 1.0}),
    )
    assert "CPU, ms a request: less on shard-0-a (0.0667 → 0.0333)." in said(before, after)


def test_a_stage_without_a_good_answer_is_told_as_such(tmp_path: Path) -> None:
    dead = stage(
        "baseline", None, error_rate=1, errors={"connection refused": 30000}, over_time=[], percentiles=[], rounds=[]
    )  # fmt: skip
    for stages in ((dead,), (dead, stage("+replicas", 20)), (stage("+replicas", 20), dead)):
        told = sees(tmp_path, summary(*stages))
        assert "No request was answered as it should be: there is no latency to speak of." in told
        assert "100 % of the requests were errors: connection refused (30,000)." in told
    _, page = report(tmp_path, summary(dead))
    assert "connection refused" in page


def test_wrong_answers_and_broken_data_come_first(tmp_path: Path) -> None:
    broken = stage("baseline", 10, wrong_answers=3, faults=["stock of store 7: 9, not 10"])
    told = sees(tmp_path, summary(broken))
    assert "3 answers were wrong" in told[0]
    assert "stock of store 7: 9, not 10" in told[1]


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
        summary(
            stage("baseline", 0, percentiles=[[100, 5], [50, 0]], over_time=[{"second": 0, "p99_ms": 0}])
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
        "zeros",
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
