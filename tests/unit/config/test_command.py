"""``drctl config``: what one sees, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from drctl.config import _yaml, app
from recovery.config import Config
from tests.unit.config.conftest import MINIMAL, ROOT

EXAMPLE = ROOT / "recovery.example.yaml"


def _run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_check_says_valid_and_warns() -> None:
    code, out, _ = _run("check", MINIMAL)
    assert code == 0
    assert "1 group, 4 warnings" in out
    assert "warning  groups.shop.backup.schedule: backups 6 h apart" in out
    assert "\x1b" not in out, "no colours without a terminal"


def test_check_strict_fails_for_warnings() -> None:
    assert _run("check", MINIMAL, "--strict")[0] == 2


def test_check_knows_the_plans(tmp_path: Path, minimal: str) -> None:
    budgets = "budgets: {full-recovery: {restore-databse: 5m}, FulRecovery: {restore-database: 5m}}"
    file = tmp_path / "recovery.yaml"
    file.write_text(minimal.replace("tier: critical", f"tier: critical\n    {budgets}"))
    warnings = json.loads(_run("check", file, "-o", "json")[1])["warnings"]
    said = "\n".join(warnings)
    assert "groups.shop.budgets.FullRecovery.restore-databse: no such step (did you mean 'restore-database'?)" in said
    assert "groups.shop.budgets.FulRecovery: no such plan (did you mean 'FullRecovery'?)" in said
    assert "groups.shop.budgets.FullRecovery: its steps may take" in said, "the plans' own budgets count"
    assert "groups.shop.budgets.Backup" not in said, "a backup has no RTO to meet"


def test_the_example_budgets_steps_that_exist() -> None:
    warnings = json.loads(_run("check", EXAMPLE, "-o", "json")[1])["warnings"]
    assert [warning for warning in warnings if "no such" in warning] == []


def test_check_as_json() -> None:
    code, out, _ = _run("check", EXAMPLE, "--output", "json")
    found = json.loads(out)
    assert (code, found["valid"], found["groups"]) == (0, True, ["platform", "shop"])


def test_alerts_are_rules_with_the_thresholds_of_the_configuration(tmp_path: Path, minimal: str) -> None:
    alerts = (
        "monitoring:\n  alerts:\n"
        "    - {name: rpo_violation, threshold: 20m, severity: critical}\n"
        "    - {name: failover_failure, threshold: 3, severity: warning}\n"
        "    - {name: drill_overdue, threshold: 30d, severity: info}\n"
    )
    file = tmp_path / "recovery.yaml"
    file.write_text(minimal + alerts)
    code, out, err = _run("alerts", file)
    [group] = YAML(typ="safe").load(out)["groups"]
    overdue, failed = group["rules"]
    assert (code, group["name"]) == (0, "recovery")
    assert overdue["expr"].endswith("> 1200") and overdue["labels"] == {"severity": "critical", "name": "rpo_violation"}
    assert failed["expr"].count(">= 3") == 2 and "expr: |" in out
    assert "drill_overdue: nothing is measured for it" in " ".join(err.split())
    assert json.loads(_run("alerts", file, "-o", "json")[1]) == {"groups": [group]}


def test_check_names_every_mistake_and_exits_with_2(tmp_path: Path, minimal: str) -> None:
    file = tmp_path / "recovery.yaml"
    file.write_text(minimal.replace("54320", "'[bold]x[/bold]'").replace("tier: critical", "tier: gold"))
    code, out, err = _run("check", file)
    assert code == 2
    assert out == ""
    assert f"error  {file}, line " in err
    assert "groups.shop.tier: expected a tier that exists" in err
    assert "expected a TCP port" in err
    assert "2 mistakes in" in err
    code, out, _ = _run("check", file, "-o", "json")
    found = json.loads(out)
    assert (code, found["valid"]) == (2, False)
    assert {mistake["key"] for mistake in found["mistakes"]} == {
        "groups.shop.tier",
        "groups.shop.regions.region-a.postgres.port",
    }
    assert all(mistake["line"] > 0 for mistake in found["mistakes"])


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_missing_file_is_one_sentence(command: str, tmp_path: Path) -> None:
    code, _, err = _run(command, tmp_path / "none.yaml")
    assert code == 2
    assert "does not exist: expected a configuration" in err
    assert "Traceback" not in err


def test_the_usual_place_and_the_environment(tmp_path: Path, minimal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECOVERY_CONFIG", raising=False)
    assert _run("check")[0] == 2, "there is none"
    (tmp_path / "recovery.yaml").write_text(minimal)
    assert "valid    recovery.yaml" in _run("check")[1]
    (tmp_path / "other.yaml").write_text("version: 2")
    monkeypatch.setenv("RECOVERY_CONFIG", str(tmp_path / "other.yaml"))
    assert "other.yaml" in _run("check")[2]


def test_show_prints_a_configuration_that_loads_again() -> None:
    code, out, _ = _run("show", EXAMPLE)
    assert code == 0
    assert Config.parse(out).groups == Config.load(EXAMPLE).groups
    assert "password: env:SHOP_POSTGRES_PASSWORD" in out


def test_show_one_group_with_its_snapshot() -> None:
    code, out, _ = _run("show", EXAMPLE, "--group", "shop")
    assert code == 0
    wanted = Config.load(EXAMPLE).snapshot("shop")
    assert out.startswith(f"# group shop, configuration {wanted.config_hash}\n")
    assert "platform:" not in out
    found = json.loads(_run("show", EXAMPLE, "--group", "shop", "-o", "json")[1])
    assert found["snapshot"] == wanted.model_dump(mode="json")


def test_an_unknown_group_lists_the_known_ones() -> None:
    code, _, err = _run("show", EXAMPLE, "--group", "shpo")
    assert code == 2
    assert "no group 'shpo' in the configuration (did you mean 'shop'?); known: platform, shop" in err


def test_the_schema_accepts_what_we_accept(example: str) -> None:
    code, out, _ = _run("schema")
    assert code == 0
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in (MINIMAL.read_text(), _yaml(Config.parse(example).public())):
        errors = [error.message for error in validator.iter_errors(Config.parse(text).public())]
        assert errors == []
    assert list(validator.iter_errors({"version": 1, "grups": {}})) != []


def test_every_key_is_described() -> None:
    code, out, _ = _run("schema", "--output", "text")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) > 200
    assert [line for line in lines if len(line.split("  ", 1)) < 2 or len(line.split("  ", 1)[1]) < 4] == []


def test_the_documentation_is_what_the_models_say() -> None:
    code, out, _ = _run("schema", "--output", "markdown")
    assert code == 0
    assert (ROOT / "docs" / "configuration.md").read_text() == out, (
        "run: drctl config schema --output markdown > docs/configuration.md"
    )


def test_help_has_examples() -> None:
    for command in ("check", "show", "schema"):
        code, out, _ = _run(command, "--help")
        assert code == 0
        assert f"drctl config {command}" in out
