"""docker-compose.yml says the same cluster as `make up`, and lets nothing out but the service."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import config
from deploy.register import shards_from
from devcluster import postgres_settings
from devcluster.topology import PostgresNode, Topology
from errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TOPOLOGY = Topology()


def environment_of(service: str) -> dict[str, str]:
    environment: dict[str, str] = SERVICES[service].get("environment", {})
    return environment


OBSERVERS = {name for name, service in SERVICES.items() if service.get("profiles") == ["observability"]}


def test_the_services_are_those_of_the_embedded_cluster() -> None:
    assert set(SERVICES) - OBSERVERS == {node.name for node in TOPOLOGY} | {"setup", "app", "mover"}
    assert {"prometheus", "grafana"} == OBSERVERS


@pytest.mark.parametrize("node", TOPOLOGY.nodes(), ids=lambda node: str(node.name))
def test_a_postgres_node_knows_its_shard(node: PostgresNode) -> None:
    siblings = [sibling.name for sibling in TOPOLOGY.nodes(node.shard)]
    environment = environment_of(node.name)
    assert environment["NODE"] == node.name
    assert environment["SHARD_NODES"].split() == siblings
    assert ("catalog" in environment["DATABASES"]) == (node.shard == "shard-0")
    assert SERVICES[node.name]["image"] == "postgres:18"
    # From 18 on the image keeps its data below this folder, in one for each major version.
    assert f"{node.name}:/var/lib/postgresql" in SERVICES[node.name]["volumes"]


def test_replicas_start_after_the_first_node_and_the_service_after_everything() -> None:
    for node in TOPOLOGY.nodes():
        first = f"{node.shard}-a"
        expected = {} if node.name == first else {first: {"condition": "service_healthy"}}
        assert SERVICES[node.name].get("depends_on", {}) == expected
    assert set(SERVICES["setup"]["depends_on"]) == {node.name for node in TOPOLOGY.nodes()}
    assert SERVICES["app"]["depends_on"] == {
        "setup": {"condition": "service_completed_successfully"},
        **{node.name: {"condition": "service_healthy"} for node in TOPOLOGY.valkeys()},
    }


def test_every_service_that_stays_up_has_a_health_check() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"setup"}


def test_only_the_service_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "app": ["127.0.0.1:${PORT:-8000}:8000"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
    assert COMPOSE["networks"]["servers"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if service["networks"] != ["servers"]}
    assert outside == {"app"} | OBSERVERS


def test_who_observes_sees_the_service_alone_and_nobody_signs_in_without_a_password() -> None:
    for name in OBSERVERS:
        assert SERVICES[name]["networks"] == ["front"]
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        # Every folder that it is given is there, and cannot be written.
        mounts = [volume.split(":") for volume in SERVICES[name]["volumes"]]
        given = [(source, rest[-1]) for source, *rest in mounts if source.startswith(".")]
        assert given
        for source, mode in given:
            assert (ROOT / source).is_dir()
            assert mode == "ro"
    environment = environment_of("grafana")
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"


def test_the_service_has_no_root_and_no_writable_root_file_system() -> None:
    for name in ("setup", "app", "mover"):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert re.search(r"^USER (?!0|root)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)


def test_images_are_the_official_ones_or_built_here() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "image" in service}
    assert {images[name] for name in images.keys() - OBSERVERS} == {"postgres:18", "valkey/valkey:8"}
    for name, image in (("prometheus", "prom/prometheus"), ("grafana", "grafana/grafana")):
        assert re.fullmatch(rf"{image}:v?\d+\.\d+\.\d+", images[name])
    assert {
        name for name, service in SERVICES.items() if "build" in service
    } == SERVICES.keys() - images.keys()


def test_no_password_has_a_default() -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    with_default = set(re.findall(r"\$\{([A-Z_]+):-", TEXT))
    assert set(re.findall(r"\$\{([A-Z_]+)", TEXT)) - required == with_default
    assert with_default == {"PORT", "WORKERS", "SEED", "POSTGRES_CPUS", "VALKEY_CPUS"} | {
        "PROMETHEUS_PORT",
        "PROMETHEUS_RETENTION",
        "GRAFANA_PORT",
    }


def test_make_env_makes_up_every_secret_for_its_owner_only(tmp_path: Path) -> None:
    script = tmp_path / "deploy" / "make-env"
    script.parent.mkdir()
    script.write_bytes((ROOT / "deploy" / "make-env").read_bytes())
    subprocess.run(["sh", str(script)], check=True, stdout=subprocess.DEVNULL)
    made = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert set(made) == set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in made.values())
    assert len(set(made.values())) == len(made)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    again = subprocess.run(["sh", str(script)], check=False, stderr=subprocess.DEVNULL)
    assert again.returncode == 1


def test_make_env_adds_what_an_older_file_lacks_and_changes_nothing_of_it(tmp_path: Path) -> None:
    script = tmp_path / "deploy" / "make-env"
    script.parent.mkdir()
    script.write_bytes((ROOT / "deploy" / "make-env").read_bytes())
    older = "POSTGRES_PASSWORD=known\nPORT=9000\n"
    (tmp_path / ".env").write_text(older)
    subprocess.run(["sh", str(script)], check=True, stdout=subprocess.DEVNULL)
    now = (tmp_path / ".env").read_text()
    assert now.startswith(older)
    assert {line.split("=")[0] for line in now.splitlines()} == {
        "PORT",
        *re.findall(r"\$\{([A-Z_]+):\?", TEXT),
    }
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


def test_the_service_gets_settings_that_it_knows() -> None:
    settings = {name.upper() for name in config.Settings.__dataclass_fields__}
    assert environment_of("app").keys() - settings == set()
    assert environment_of("setup").keys() - settings == {"SEED", "SHARDS"}
    assert environment_of("mover").keys() - settings == set()
    assert "ADMIN_PASSWORD" not in environment_of("app")


def test_setup_registers_every_node_by_its_name() -> None:
    registered = shards_from(environment_of("setup")["SHARDS"])
    assert [shard.name for shard in registered] == list(TOPOLOGY.shard_names)
    nodes = [node for shard in registered for node in shard.nodes]
    assert [(node.name, node.host) for node in nodes] == [(n.name, n.name) for n in TOPOLOGY.nodes()]


@pytest.mark.parametrize("text", ["", "shard-0", "shard-0=", "=a", "shard-0=a,,b"])
def test_a_garbled_list_of_shards_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        shards_from(text)


def test_containers_take_the_settings_of_the_embedded_servers() -> None:
    """Each setting of deploy/postgres-node is the embedded cluster's, but for where the server listens."""

    def parse(configuration: str) -> dict[str, str]:
        return dict(re.findall(r"^(\w+) = '?(.*?)'?$", configuration, re.MULTILINE))

    nodes = TOPOLOGY.nodes("shard-0")
    embedded = parse(postgres_settings.text(nodes[1], nodes, 18, durable=True))
    container = parse((ROOT / "deploy" / "postgres-node").read_text(encoding="utf-8"))
    elsewhere = {"listen_addresses", "unix_socket_directories", "port", "cluster_name"}
    by_node = {"primary_conninfo", "primary_slot_name", "synchronous_standby_names"}
    assert by_node < container.keys()
    for name in embedded.keys() - elsewhere - by_node:
        assert container.get(name) == embedded[name], name


def test_the_image_holds_every_room_of_the_service() -> None:
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    rooms = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests", "devcluster", "bench", "lab"}
    assert rooms - set(kept) == set()
    assert {"*.py", "pyproject.toml", "requirements", "sql"} <= set(kept)
