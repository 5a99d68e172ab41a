"""Metrics, their documentation, alert rules and dashboards say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from metrics import definitions

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy" / "observability"
ALERTS = yaml.safe_load((FILES / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FILES / "grafana" / "dashboards").glob("*.json"))
}
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

# Prometheus's own: of each scrape, and the labels that it adds.
OF_PROMETHEUS = {"up": frozenset({"job", "instance"})}
ADDED = frozenset({"job", "instance"})
# What docs/operations.md has a section for.
SECTIONS = {
    "a-replica-lags",
    "a-primary-dies",
    "redis-freezes",
    "a-shard-fills",
    "a-store-is-hot",
    "a-move-is-stuck",
    "requests-wait-for-connections",
}
_WORDS = {"by", "without", "on", "ignoring", "or", "and", "unless", "bool", "offset"}


def defined() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name as it is exposed, kind, labels."""
    for metric in vars(definitions).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name = f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
            yield name, metric._type, tuple(metric._labelnames)


def series() -> dict[str, frozenset[str]]:
    """Every name that a query may ask for, with its labels."""
    found = dict(OF_PROMETHEUS)
    for name, kind, labels in defined():
        own = ADDED | set(labels)
        if kind == "histogram":
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the PromQL."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def asked_for(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """The series that it names, each with the labels that it is chosen by; and the labels that it is grouped by."""
    grouped: set[str] = set()
    for labels in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        grouped |= {label.strip() for label in labels.split(",") if label.strip()}
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    chosen: dict[str, set[str]] = {}
    for name, matchers in re.findall(
        r"(?<![\w.$\"])([a-zA-Z_:][\w:]*)\b(?!\s*\()\s*(\{[^}]*\})?", _hidden(bare)
    ):
        if name not in _WORDS:
            chosen.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return chosen, grouped


def _hidden(expression: str) -> str:
    """Without what stands in quotes."""
    return re.sub(r'"[^"]*"', '""', expression)


def test_names_follow_prometheus_rules() -> None:
    """https://prometheus.io/docs/practices/naming/: a counter ends in _total, a unit is a base unit and ends a name."""
    names = [name for name, _, _ in defined()]
    assert len(set(names)) == len(names)
    for name, kind, labels in defined():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not name.endswith(("_count", "_sum", "_bucket", "_ms", "_milliseconds", "_kb", "_minutes"))
        if kind == "histogram":
            assert name.endswith("_seconds")
        for label in labels:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
            assert label not in {"le", "quantile", "job", "instance"}


def test_the_table_in_the_document_has_every_metric() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|", DOCUMENT, re.MULTILINE)
    told = {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    assert told == set(defined())
    assert len(rows) == len(told)


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_a_query_asks_for_what_there_is(where: str, expression: str) -> None:
    known = series()
    chosen, grouped = asked_for(expression)
    assert chosen, "it names no series"
    for name, labels in chosen.items():
        assert name in known, name
        assert labels <= known[name], name
    assert grouped <= set().union(*(known[name] for name in chosen))


def test_prometheus_can_read_every_query() -> None:
    for _, expression in expressions():
        promql_parser.parse(expression.replace("$__rate_interval", "1m"))


def test_a_query_for_what_there_is_not_would_be_found() -> None:
    expression = 'sum by (le, colour) (rate(nothing_total{a="b{", c=~"d"}[5m])) / on (x) up'
    assert asked_for(expression) == ({"nothing_total": {"a", "c"}, "up": set()}, {"le", "colour", "x"})


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {name for _, expression in expressions() for name in asked_for(expression)[0]}
    for name, kind, _ in defined():
        assert shown & {name, f"{name}_bucket", f"{name}_sum"}, (name, kind)


def test_an_alert_says_what_is_wrong_what_to_do_and_where_to_read_on() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    operations = ROOT / "docs" / "operations.md"
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "look"}
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url"}
        assert all(text.rstrip().endswith(".") for text in (notes["summary"], notes["description"]))
        document, _, section = notes["runbook_url"].partition("#")
        assert document == "docs/operations.md"
        assert not section or section in SECTIONS
        if section and operations.exists():
            headings = re.findall(r"^#+ (.+)$", operations.read_text(encoding="utf-8"), re.MULTILINE)
            assert section in {
                re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings
            }
    assert {rule["annotations"]["runbook_url"].partition("#")[2] for rule in RULES} >= SECTIONS


def test_every_alert_names_labels_that_its_query_leaves() -> None:
    known = series()
    for rule in RULES:
        chosen, grouped = asked_for(rule["expr"])
        left = grouped if "by (" in rule["expr"] else set().union(*(known[name] for name in chosen))
        told = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert told <= left, rule["alert"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_asks_the_data_source_that_is_provisioned(name: str) -> None:
    provisioning = FILES / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    uids = {source["uid"] for source in sources["datasources"]}
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == name
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] in uids
            assert set(re.findall(r"\$([a-z]+)", target["expr"])) <= variables


def test_prometheus_asks_the_service_and_reads_the_rules() -> None:
    settings = yaml.safe_load((FILES / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = settings["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["app:8000"]}]
    assert all((FILES / "prometheus" / name).is_file() for name in settings["rule_files"])
    assert any(f'job="{job["job_name"]}"' in rule["expr"] for rule in RULES)
    (provider,) = yaml.safe_load(
        (FILES / "grafana" / "provisioning" / "dashboards" / "dashboards.yml").read_text(encoding="utf-8")
    )["providers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["grafana"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in compose["volumes"])
