"""What each command asks for, its exit codes and errors, without a server."""

from __future__ import annotations

import importlib
import json
import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_group

from drctl import backup, retention
from drctl.main import COMMANDS
from drctl.output import exit_code, wants_json
from recovery.backup.sealing import Opener
from recovery.backup.signing import Signer
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind, DataStore
from recovery.errors import (
    BadInput,
    Contended,
    Corrupt,
    NoSpace,
    NotFound,
    RecoveryError,
    Refused,
    RestoreFailed,
    SourceFailed,
    Unreachable,
    WrongKey,
)
from tests.unit.drctl.rig import MINIMAL, drctl


def test_help_imports_no_command() -> None:
    program = (
        "import sys, drctl.main\nfrom typer.testing import CliRunner\n"
        "assert CliRunner().invoke(drctl.main.app, ['--help']).exit_code == 0\n"
        "print(sorted({'temporalio', 'boto3', 'pydantic', 'asyncpg', 'lab'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def every_command() -> list[list[str]]:
    found = []
    for name, (module, is_family, _, _) in COMMANDS.items():
        group = get_group(importlib.import_module(module).app)
        found += [[name, inner] for inner in group.commands] if is_family else [[name]]
    return found


def test_every_command_has_help_with_examples_and_exit_codes() -> None:
    for command in every_command():
        shown = drctl(*command, "--help")
        assert shown.exit_code == 0, shown.output
        assert "Examples:" in shown.output, command
        assert f"drctl {' '.join(command)}" in shown.output.replace("  ", " "), command
        assert "Exit codes: 0 done" in shown.output, command


def test_every_command_speaks_json() -> None:
    """Also those that run until they are stopped: what they say at their start is JSON then."""
    assert len(every_command()) > 50
    for command in every_command():
        option = re.search(r"--output,? +-o +\W*(\w+(?:\|\w+)+)", drctl(*command, "--help").output)
        assert option is not None and "json" in option[1].split("|"), command


def test_every_command_of_the_list_exists() -> None:
    listed = drctl("--help").output
    for name in COMMANDS:
        assert f" {name} " in listed
        assert drctl(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput, 2), (NotFound, 2), (Refused, 2), (WrongKey, 2), (Unreachable, 3), (Contended, 1), (Corrupt, 1),
        (SourceFailed, 1), (RestoreFailed, 1), (NoSpace, 1),
    ],
)  # fmt: skip
def test_exit_codes_by_kind_of_error(error: type[RecoveryError], code: int) -> None:
    assert exit_code(error("x")) == code


@pytest.mark.parametrize(
    ("arguments", "json_wanted"),
    [
        (["status", "-o", "json"], True), (["-o", "text"], False), (["--output=json"], True), (["-ojson"], True),
        (["--output", "json", "x"], True), (["--reason", "json"], False), ([], False), (["-o"], False),
    ],
)  # fmt: skip
def test_json_is_recognised_before_anything_is_parsed(arguments: list[str], json_wanted: bool) -> None:
    assert wants_json(arguments) is json_wanted


def test_usage_errors_exit_with_2_as_text_and_as_json() -> None:
    text = drctl("approve", "shop")
    assert text.exit_code == 2
    assert text.stderr == "error  Missing option '--reason' / '-r' (see drctl approve --help)\n"
    as_json = drctl("approve", "shop", "-o", "json")
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout) == {
        "error": "Missing option '--reason' / '-r'.",
        "kind": "MissingParameter",
        "exit": 2,
    }
    assert as_json.stderr == ""
    assert json.loads(drctl("backup", "run", "--kind", "incremental", "-o", "json").stdout)["exit"] == 2
    assert drctl("backp").exit_code == 2
    assert "Did you mean 'backup'" in drctl("backp").stderr
    for nothing in ([], ["backup"]):
        shown = drctl(*nothing)
        assert (shown.exit_code, shown.stderr) == (2, "") and "Usage:" in shown.stdout


def test_a_missing_or_wrong_configuration_is_said_with_every_mistake(tmp_path: Path) -> None:
    missing = drctl("status", "--config", str(tmp_path / "none.yaml"), "-o", "json", config=None)
    assert (missing.exit_code, "does not exist" in json.loads(missing.stdout)["error"]) == (2, True)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MINIMAL.read_text().replace("tier: critical", "tier: gold").replace("54320", "many"))
    said = drctl("backup", "list", config=wrong)
    assert said.exit_code == 2
    assert said.stderr.count("error  ") == 2
    assert "Traceback" not in said.output


def test_the_configuration_is_looked_for_in_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECOVERY_CONFIG", raising=False)
    nowhere = drctl("backup", "list", config=None)
    assert nowhere.exit_code == 2
    assert "there is no configuration: looked for recovery.yaml and /etc/recovery-plans/recovery.yaml" in nowhere.stderr
    (tmp_path / "recovery.yaml").write_text("version: 2\n")
    assert "recovery.yaml, line 1, version" in drctl("backup", "list", config=None).stderr
    before_command = drctl("--config", str(MINIMAL), "plan", "show", "Backup", config=None)
    assert (before_command.exit_code, "for shop" in before_command.stdout) == (0, True)
    assert "RECOVERY_CONFIG" not in os.environ


def test_the_group_is_needed_where_there_are_several(asked: list[Any], two_groups: Path) -> None:
    several = drctl("backup", "run", config=two_groups)
    assert several.exit_code == 2
    assert "say which with --group: shop, books" in several.stderr
    assert drctl("backup", "run", "--group", "books", config=two_groups).exit_code == 0
    unknown = drctl("backup", "run", "--group", "bokks", config=two_groups)
    assert "no group 'bokks' in the configuration (did you mean 'books'?); known: shop, books" in unknown.stderr
    assert [request.group for _, request, _ in asked] == ["books"]


def test_backup_asks_for_what_was_said(asked: list[Any]) -> None:
    assert drctl("backup", "run", "-k", "logical", "--region", "region-b", "--no-wait", "--actor", "bo").exit_code == 0
    plan, request, options = asked[0]
    assert plan == "Backup"
    assert request == PlanRequest(
        group="shop", kind=BackupKind.LOGICAL, region="region-b", reason="asked for", requested_by="bo"
    )
    assert (options["wait"], options["afterwards"]) == (False, None)
    drctl("backup", "run", "--no-wait", "--validate")
    assert asked[1][2]["wait"] is True, "who waits for the validation waits for the backup, too"
    assert asked[1][2]["afterwards"] is backup.validations


def test_a_store_is_backed_up_by_its_name(asked: list[Any]) -> None:
    assert drctl("backup", "run", "--store", "nats").exit_code == 0
    assert drctl("backup", "run", "--store", "redis").exit_code == 0
    assert drctl("backup", "run", "--store", "search", "--take-over").exit_code == 0
    assert drctl("backup", "run", "--store", "postgres").exit_code == 0
    assert [request.take_over for _, request, _ in asked] == [False, False, True, False]
    assert [(request.kind, request.store) for _, request, _ in asked] == [
        (BackupKind.STREAMS, DataStore.NATS),  # whether or not backup.kinds has it
        (BackupKind.RDB, DataStore.REDIS),
        (BackupKind.SEARCH, DataStore.SEARCH),
        (None, DataStore.POSTGRES),  # the configured ones of its kinds
    ]
    assert drctl("backup", "run", "--store", "postgres", "--kind", "streams").exit_code == 2
    assert drctl("backup", "run", "--take-over").exit_code == 2


def test_validate_takes_a_point_or_a_span(asked: list[Any]) -> None:
    drctl("validate", "20261122T101500Z-physical-1a2b3c4d")
    drctl("validate", "--since", "1h30m")
    assert (asked[0][1].point_id, asked[1][1].since) == (
        "20261122T101500Z-physical-1a2b3c4d",
        timedelta(minutes=90),
    )
    assert asked[0][2]["prepare"] is not None and asked[1][2]["prepare"] is None
    assert drctl("validate", "some-point", "--since", "1h").exit_code == 2
    wrong = drctl("validate", "--since", "yesterday", "-o", "json")
    assert wrong.exit_code == 2
    assert "expected a duration" in json.loads(wrong.stdout)["error"]


def test_recover_asks_for_the_groups_name(asked: list[Any]) -> None:
    refused = drctl("recover")
    assert refused.exit_code == 2
    assert "what was committed after it is lost. Nobody can be asked here: give --yes" in refused.stderr
    assert asked == []
    drctl("recover", "--to", "region-b", "--yes", "--approve", "--outage-began", "2025-11-22T10:15:00+01:00")
    plan, request, _ = asked[0]
    assert (plan, request.region, request.approve) == ("FullRecovery", "region-b", True)
    assert request.outage_began_at == datetime(2025, 11, 22, 9, 15, tzinfo=UTC)


def test_recover_takes_a_recovery_set_by_its_id(asked: list[Any]) -> None:
    both = drctl("recover", "--set", "set-1", "--point", "point-1", "--yes")
    assert (both.exit_code, asked) == (2, [])
    assert "expected --point or --set, and not both" in both.stderr
    drctl("recover", "--set", "set-1", "--to-time", "2025-11-22T10:15:00Z", "--yes")
    _, request, options = asked[0]
    assert (request.set_id, request.point_id, request.target.time.hour) == ("set-1", None, 10)
    assert options["prepare"] is not None, "a misspelt one is refused before anything begins"


def test_retention_runs_its_plan(asked: list[Any]) -> None:
    drctl("retention", "--reason", "disk is full")
    assert (asked[0][0], asked[0][1].reason) == ("Retention", "disk is full")


def test_an_empty_reason_is_refused_before_anything_is_contacted() -> None:
    for command in (["pause", "shop", "--reason", " "], ["release", "shop", "--reason", ""]):
        said = drctl(*command)
        assert (said.exit_code, "--reason: expected" in said.stderr) == (2, True)


def test_plans_are_shown_with_budgets_and_the_critical_path_against_the_rto(tmp_path: Path) -> None:
    file = tmp_path / "recovery.yaml"
    budgets = "budgets: {FullRecovery: {restore-database: 2h}}"
    file.write_text(MINIMAL.read_text().replace("tier: critical", f"tier: critical\n    {budgets}"))
    shown = drctl("plan", "show", "full-recovery", config=file).stdout
    assert "2 h *" in shown
    assert "* from the configuration" in shown
    assert "point of no return" in shown
    assert "RTO of tier critical: 15 min: not guaranteed" in shown
    found = json.loads(drctl("plan", "show", "FullRecovery", "-o", "json", config=file).stdout)
    own = json.loads(drctl("plan", "show", "FullRecovery", "-o", "json").stdout)
    assert found["critical_path_seconds"] - own["critical_path_seconds"] == 5400
    assert (found["rto_seconds"], found["within_rto"]) == (900, False)
    unknown = drctl("plan", "show", "Bakup")
    assert unknown.exit_code == 2
    assert "there is no plan 'Bakup' (did you mean 'Backup'?); known: Backup, BackupValidation" in unknown.stderr
    assert {plan["plan"] for plan in json.loads(drctl("plan", "list", "-o", "json").stdout)} >= {
        "Backup",
        "FullRecovery",
    }


def test_plans_need_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECOVERY_CONFIG", raising=False)
    assert drctl("plan", "show", "Backup", config=None).exit_code == 0
    assert drctl("plan", "show", "Backup", "--group", "shop", config=None).exit_code == 2


async def test_keys_are_private_usable_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    made = drctl("keys", "generate", "-d", str(folder), "-o", "json")
    assert made.exit_code == 0
    keys = json.loads(made.stdout)["keys"]
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("operator.agekey", "signing.key")] == [0o600] * 2
    opener = Opener([(folder / "operator.agekey").read_text()])
    assert opener.recipients == keys["recipients"]
    assert Signer((folder / "signing.key").read_text().strip()).public_key == keys["trusted_signers"][0]
    assert "AGE-SECRET-KEY" not in made.output and "ed25519-secret" not in made.output
    before = (folder / "operator.agekey").read_bytes()
    again = drctl("keys", "generate", "-d", str(folder))
    assert again.exit_code == 2
    assert (folder / "operator.agekey").read_bytes() == before
    configuration = MINIMAL.read_text()
    shown = drctl("keys", "generate", "-d", str(tmp_path / "more")).stdout
    block = shown[shown.index("keys:") :]
    start, end = configuration.index("keys:"), configuration.index("\nwitness:")
    assert Config.parse(configuration[:start] + block + configuration[end:]).keys.recipients


def test_no_server_is_one_sentence_and_exit_3(tmp_path: Path) -> None:
    file = tmp_path / "recovery.yaml"
    file.write_text(MINIMAL.read_text().replace("127.0.0.1:7233", "127.0.0.1:1"))
    for command in (["status"], ["schedules", "apply"], ["worker", "--region", "region-a"], ["up"]):
        said = drctl(*command, "-o", "json", config=file)
        assert said.exit_code == 3, said.output
        assert "no Temporal server answers at 127.0.0.1:1 (connection refused)" in json.loads(said.stdout)["error"]


def test_a_worker_of_an_unknown_region_names_the_known_ones() -> None:
    said = drctl("worker", "--region", "region-x")
    assert said.exit_code == 2
    assert "there is no region 'region-x' in the configuration: it has region-a, region-b" in said.stderr
    nothing = drctl("worker", "--no-control")
    assert nothing.exit_code == 2
    assert "needs a region" in nothing.stderr
    assert (
        "--log-level: log level 'LOUD' is unknown"
        in drctl("worker", "--region", "region-a", "--log-level", "LOUD").stderr
    )


def test_a_mistake_in_the_program_is_one_sentence_and_a_traceback_only_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError("shop")

    monkeypatch.setattr(retention, "run_plan", broken)
    plain = drctl("retention")
    assert plain.exit_code == 70
    assert "a mistake in this program: KeyError: 'shop'" in plain.stderr
    assert "Traceback" not in plain.output
    assert "Traceback" in drctl("retention", RECOVERY_DEBUG="1").output
    assert "Traceback" in drctl("--debug", "retention").output


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("drctl.lab", "lab", "psutil"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "lab.errors", None)
    monkeypatch.setitem(sys.modules, "lab", None)
    said = drctl("lab", "status")
    assert said.exit_code == 2
    assert "pip install 'recovery-plans[lab]'" in said.stderr


def test_the_version_is_printed() -> None:
    assert drctl("--version").stdout.startswith("drctl ")
