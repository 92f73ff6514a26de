"""docker-compose.yaml, Dockerfile and deploy/ fit together, and say nothing that our code does not do."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from drctl.config import PLACES
from recovery.config import Config
from recovery.config.operations import COUNTED, TIMED
from recovery.telemetry import health_metrics, wal_metrics
from recovery.telemetry import metrics as recovery_metrics
from recovery.telemetry.alert_rules import RULES, rule_group

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yaml"
DEPLOY = ROOT / "deploy"
HOSTS = {"region-a", "region-b"}
"""Containers that stand for a region's machine: stores, guard and worker."""
OURS = {"worker-1", "worker-2", "monitor", *HOSTS}


def _yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = _yaml(COMPOSE)
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def _variables() -> set[str]:
    return set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", COMPOSE.read_text()))


def _compose_command() -> list[str] | None:
    """A Compose of version 2 or later, where one is installed: version 1 refuses valid files."""
    for command in (["docker", "compose"], ["docker-compose"], ["/usr/libexec/docker/cli-plugins/docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        found = subprocess.run(
            [*command, "version", "--short"], capture_output=True, text=True, timeout=30, check=False
        )
        if found.returncode == 0 and re.match(r"v?([2-9]|\d\d)\.", found.stdout.strip()):
            return command
    return None


def _against_published_schema(document: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """The Compose specification's own JSON schema, which check-jsonschema carries."""
    (folder / "compose.json").write_text(json.dumps(document))
    arguments = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run(
        [*arguments, str(folder / "compose.json")], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_file_meets_the_published_schema(compose: dict[str, Any], tmp_path: Path) -> None:
    found = _against_published_schema(compose, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_real_compose_takes_the_file_where_one_is_installed(tmp_path: Path) -> None:
    command = _compose_command()
    (tmp_path / "env").write_text("".join(f"{name}=x\n" for name in sorted(_variables())))
    if command is None:
        return  # the published schema has to do; make test-system installs one
    arguments = [*command, "--file", str(COMPOSE), "--env-file", str(tmp_path / "env")]
    found = subprocess.run([*arguments, "config", "-q"], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        {"imagee": "x:1"},
        {"ports": {"8080": "8080"}},
        {"depends_on": {"postgres-a": {"condition": "healthy"}}},
        {"healthcheck": {"test": ["CMD", "x"], "interval": 5}},
        {"restart": ["always"]},
    ],
)
def test_the_schema_refuses_what_is_wrong(compose: dict[str, Any], spoil: dict[str, Any], tmp_path: Path) -> None:
    wrong = {**compose, "services": {**compose["services"], "s3-a": {**compose["services"]["s3-a"], **spoil}}}
    assert _against_published_schema(wrong, tmp_path).returncode != 0


def test_published_ports_are_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not re.fullmatch(r"127\.0\.0\.1:\d{2,5}:\d{2,5}", port)] == []


def test_everything_that_is_named_exists(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    used: dict[str, set[str]] = {"volumes": set(), "configs": set(), "secrets": set()}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        for other, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (
                    f"{name} waits for {other}, which never says that it is healthy"
                )
        used["secrets"] |= set(service.get("secrets", []))
        used["configs"] |= {entry["source"] for entry in service.get("configs", [])}
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                used["volumes"].add(source)
    for kind, names in used.items():
        assert names == set(compose[kind]), f"{kind}: named and defined must be the same"


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']} is not pinned to a version"
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM ") and not re.fullmatch(r"FROM recovery( AS \w+)?", line):
            assert re.fullmatch(r"FROM [a-z]+:\d+\.\d+\.\d+-\S+ AS \w+", line), line


def test_the_stack_has_its_parts(services: dict[str, dict[str, Any]]) -> None:
    parts = {"temporal", "temporal-postgres", "temporal-ui", "s3-witness", "prometheus", "grafana", *OURS}
    assert parts | {"s3-a", "s3-b"} <= set(services)
    for name in set(services) - {"create-buckets"}:
        assert "healthcheck" in services[name], name


def test_the_image_is_built_of_what_is_sent_to_the_builder() -> None:
    taken = {
        line.lstrip("!").rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(\S+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
    assert {path.rstrip("/") for path in copied} == taken


def test_a_guard_has_its_stores_in_its_own_container(services: dict[str, dict[str, Any]]) -> None:
    """It ends their processes, finds PostgreSQL's files, and writes the fence that NATS includes."""
    stack = Config.load(DEPLOY / "compose" / "recovery.yaml")
    script = (DEPLOY / "compose" / "region.sh").read_text()
    for region in stack.snapshot("shop").regions:
        service = services[region.name]
        assert service["build"]["target"] == "region" and service["hostname"] == region.name
        assert (service["environment"]["REGION"], service["environment"]["HOME_REGION"]) == (region.name, "region-a")
        assert region.postgres is not None and region.postgres.host == region.name
        assert {str(region.nats).partition(":")[0], str(region.redis).partition(":")[0]} == {region.name}
        assert urlsplit(str(region.guard)).hostname == region.name
        [volume] = [volume.partition(":")[2] for volume in service["volumes"]]
        assert f"base=${{REGION_FOLDER:-{volume}}}" in script
        assert region.postgres.data_directory == f"{volume}/postgres"
        assert stack.guards.state_folder == f"{volume}/guard"
    assert f"bin=${{POSTGRES_BIN:-{stack.groups['shop'].regions['region-a'].postgres.bin_directories[16]}}}" in script
    assert stack.snapshot("shop").guarded
    nats = stack.groups["shop"].nats
    assert nats is not None and f"for name in {tuple(nats.streams)!r}".replace("'", '"') in script


def test_what_a_regions_script_asks_for_is_in_its_environment(services: dict[str, dict[str, Any]]) -> None:
    script = (DEPLOY / "compose" / "region.sh").read_text()
    own = {"REGION_FOLDER", "REGION_LISTEN", "REGION_ADDRESS", "HOME_ADDRESS", "POSTGRES_BIN", "GUARD_METRICS_PORT"}
    own |= {"REGION_WORKER", "PGPASSWORD", "PGPASSFILE"}
    asked = (
        set(re.findall(r"(?<!\\)\$\{?([A-Z][A-Z_]+)", script))
        | set(re.findall(r"\\getenv \w+ ([A-Z_]+)", script)) - own
    )
    for name in HOSTS:
        assert asked - own <= set(services[name]["environment"]), name


def test_the_witness_and_temporal_are_in_no_region(services: dict[str, dict[str, Any]]) -> None:
    assert {"s3-witness", "temporal", "temporal-postgres"} & HOSTS == set()
    for name in HOSTS:
        assert "temporal" not in services[name]["depends_on"], "a guard and its stores run without Temporal"


def test_our_processes_are_locked_in(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        service = services[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert "no-new-privileges:true" in service["security_opt"], name
    assert [name for name in services if "age_identity" in services[name].get("secrets", [])] == ["region-b"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    user, entry = dockerfile.index("\nUSER recovery"), dockerfile.index("\nENTRYPOINT")
    assert user < entry, "and the stages that follow keep the user"
    assert dockerfile.count("\nUSER ") == 1
    assert "--require-hashes" in dockerfile


def test_every_secret_is_asked_for_and_none_is_written_down(services: dict[str, dict[str, Any]]) -> None:
    text = COMPOSE.read_text()
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):\?set it in \.env\}", text))
    assert asked == _variables(), "every variable must be refused when it is empty"
    offered = set(re.findall(r"^([A-Z0-9_]+)=(.*)$", (DEPLOY / "compose" / "example.env").read_text(), re.MULTILINE))
    assert offered == {(name, "") for name in asked}
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|PWD|SECRET|KEY|AUTH|TOKEN", key):
                assert value.startswith("${"), f"{name}: {key}"
        words = json.dumps([service.get("command", ""), service.get("entrypoint", "")])
        assert not re.search(r"(?<!\$)\$\{", words), f"{name}: a process list would show it"


def test_scripts_are_sound_and_can_be_run() -> None:
    for script in sorted((DEPLOY / "compose").glob("*.sh")):
        assert os.access(script, os.X_OK), script.name
        assert subprocess.run(["sh", "-n", str(script)], timeout=10, check=False).returncode == 0
        assert "set -eu" in script.read_text()


def test_the_configuration_of_the_stack(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    make_keys = runpy.run_path(str(DEPLOY / "compose" / "make_keys.py"))["make_keys"]
    make_keys(tmp_path / "keys")
    config = Config.load(tmp_path / "keys" / "recovery.yaml")
    assert config.warnings() == []
    with pytest.raises(FileExistsError):
        make_keys(tmp_path / "keys")
    hosts = {region.postgres.host for region in config.snapshot("shop").regions if region.postgres}
    hosts |= {(config.temporal.address or "").partition(":")[0]}
    for region in config.snapshot("shop").regions:
        hosts |= {str(region.nats).partition(":")[0], str(region.redis).partition(":")[0]}
    for store in (config.witness, *config.locations.values()):
        hosts.add(str(store.endpoint).partition("://")[2].partition(":")[0])
    assert hosts <= set(services)
    buckets = re.findall(
        r"^create \S+//([\w-]+):8333 (\S+)$", (DEPLOY / "compose" / "create-buckets.sh").read_text(), re.M
    )
    stores = (config.witness, *config.locations.values())
    assert sorted(buckets) == sorted(
        (str(store.endpoint).partition("://")[2].partition(":")[0], store.bucket) for store in stores
    )
    wanted = set(re.findall(r"env:([A-Z0-9_]+)", (tmp_path / "keys" / "recovery.yaml").read_text()))
    for name in OURS:
        assert wanted <= set(services[name]["environment"]), name
    mounted = set(re.findall(r"file:/run/secrets/(\w+)", (tmp_path / "keys" / "recovery.yaml").read_text()))
    assert mounted == set(services["region-b"]["secrets"])
    places = config.snapshot("shop").failover.vantage_points
    assert [*sorted(HOSTS), services["monitor"]["command"][-1]] == places


def test_the_configuration_is_mounted_where_drctl_looks_for_it(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        assert [Path(entry["target"]) for entry in services[name]["configs"]] == [PLACES[1]]


def test_prometheus_asks_who_is_there(services: dict[str, dict[str, Any]], compose: dict[str, Any]) -> None:
    config = _yaml(DEPLOY / "prometheus.yml")
    stack = _yaml(DEPLOY / "compose" / "recovery.yaml")
    for job in config["scrape_configs"]:
        for entry in job["static_configs"]:
            for target in entry["targets"]:
                host, _, port = target.partition(":")
                if host == "127.0.0.1":
                    continue
                assert host in services
                if entry["labels"]["process"] == "guard":
                    script = (DEPLOY / "compose" / "region.sh").read_text()
                    assert f"metrics=${{GUARD_METRICS_PORT:-{port}}}" in script
                else:
                    assert int(port) == stack["monitoring"]["metrics"]["port"]
    mounts = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert set(config["rule_files"]) <= mounts


def _alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in _yaml(DEPLOY / "alerts.yml")["groups"] for rule in group["rules"]}


def test_the_first_alert_rules_are_those_of_the_configuration() -> None:
    configured = Config.load(ROOT / "recovery.example.yaml").monitoring.alerts
    assert _yaml(DEPLOY / "alerts.yml")["groups"][0] == rule_group(configured)


def test_each_configurable_alert_has_a_rule_of_metrics_that_exist() -> None:
    assert {*TIMED, *COUNTED} - set(RULES) == {"drill_overdue"} and set(RULES) < {*TIMED, *COUNTED}
    names = {re.sub("_count$", "", name) for rule in RULES.values() for name in re.findall(r"dr_[a-z_]+", rule.expr)}
    assert names <= set(_our_metrics())
    further = {rule["alert"] for group in _yaml(DEPLOY / "alerts.yml")["groups"][1:] for rule in group["rules"]}
    assert not further & {rule.alert for rule in RULES.values()}


def test_alert_rules_say_what_to_do_and_have_a_severity(tmp_path: Path) -> None:
    for name, rule in _alerts().items():
        assert re.fullmatch(r"([A-Z][a-z]+)+", name)
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert set(rule["annotations"]) == {"summary", "action"}, name
        assert rule["expr"].count("(") == rule["expr"].count(")"), name
    tested = _yaml(DEPLOY / "alerts_test.yml")["tests"]
    assert {entry["alertname"] for test in tested for entry in test["alert_rule_test"]} <= set(_alerts())
    if (promtool := shutil.which("promtool")) is not None:  # Prometheus's own judgement, where it is installed
        config = tmp_path / "prometheus.yml"
        config.write_text((DEPLOY / "prometheus.yml").read_text().replace("/etc/prometheus/", f"{DEPLOY}/"))
        for arguments in (
            ["check", "rules", str(DEPLOY / "alerts.yml")],
            ["test", "rules", str(DEPLOY / "alerts_test.yml")],
            ["check", "config", str(config)],
        ):
            found = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
            assert found.returncode == 0, found.stdout + found.stderr


def _our_metrics() -> dict[str, set[str]]:
    """Every metric that we create, by name, from the code that creates them."""
    text = "".join(Path(str(module.__file__)).read_text() for module in (recovery_metrics, health_metrics, wal_metrics))
    return {name: set() for name in re.findall(r'"(dr_[a-z_]+)"', text)}


def _expressions() -> list[str]:
    found = [rule["expr"] for rule in _alerts().values()]
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "recovery.json").read_text())
    return found + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_page_of_metrics_has_each_of_them_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`(dr_[a-z_]+)`", page)) == set(_our_metrics())


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    known = _our_metrics()
    assert len(known) > 12
    asked = {name for expression in _expressions() for name in re.findall(r"\bdr_[a-z_]+", expression)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= set(known)


def test_the_dashboard_shows_every_metric() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "recovery.json").read_text())
    shown = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    hidden = {name for name in _our_metrics() if name not in shown}
    assert hidden <= {"dr_backup_validation_overall_status"}, hidden


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "recovery.json").read_text())
    source = _yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert panel["title"] and panel["description"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
