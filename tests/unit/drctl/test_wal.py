"""What ``drctl wal status`` shows, and how a moment to recover to is asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drctl import recoveries, restores
from drctl import wal as wal_command
from recovery.adapters.wal_status import LocationArchive, ServerArchive
from recovery.backup.wal.reader import TimelineStatus
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind
from recovery.domain.recovery_target import RecoveryTarget, Window
from recovery.domain.wal_progress import HeldWal, WalProgress
from tests.unit.drctl.rig import drctl
from workers.wal_status import ArchiverStatus, ArchiveStatus

NOW = datetime.now(UTC)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, PlanRequest]]:
    calls: list[tuple[str, PlanRequest]] = []

    def run_plan(config: Config, plan: str, request: PlanRequest, **options: Any) -> None:
        calls.append((plan, request))

    for module in (recoveries, restores):
        monkeypatch.setattr(module, "run_plan", run_plan)
    return calls


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["--latest"], RecoveryTarget(latest=True)),
        (["--to-lsn", "16/B374D848", "--timeline", "2"], RecoveryTarget(lsn="16/B374D848", timeline=2)),
        (["--to-xid", "745"], RecoveryTarget(xid=745)),
        (["--to-name", "before upgrade"], RecoveryTarget(name="before upgrade")),
        (
            ["--to-time", "2025-11-22T10:14:30+01:00"],
            RecoveryTarget(time=datetime(2025, 11, 22, 9, 14, 30, tzinfo=UTC)),
        ),
        ([], None),
    ],
)
def test_a_moment_is_part_of_the_request(
    asked: list[tuple[str, PlanRequest]], arguments: list[str], target: RecoveryTarget | None
) -> None:
    assert drctl("recover", "--yes", *arguments).exit_code == 0
    assert drctl("restore", "--target-directory", "/srv/copy", *arguments).exit_code == 0
    assert [(plan, request.target) for plan, request in asked] == [("FullRecovery", target), ("Restore", target)]
    assert asked[1][1].kind is BackupKind.PHYSICAL


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--latest", "--to-xid", "7"], "expected one of --to-time"),
        (["--timeline", "2"], "--timeline goes with"),
        (["--to-lsn", "somewhere"], "is no WAL position"),
        (["--to-time", "2999-01-01"], "lies in the future"),
    ],
)
def test_a_wrong_moment_is_refused_with_a_sentence(
    asked: list[tuple[str, PlanRequest]], arguments: list[str], words: str
) -> None:
    said = drctl("recover", "--yes", *arguments)
    assert (said.exit_code, asked) == (2, [])
    assert words in said.stderr


def test_a_dump_has_no_wal(asked: list[tuple[str, PlanRequest]]) -> None:
    said = drctl("restore", "--target-database", "copy", "--latest")
    assert (said.exit_code, asked) == (2, [])
    assert "a dump has no WAL" in said.stderr


def found(*, gaps: bool = False, error: str = "", configured: bool = True) -> ArchiveStatus:
    ranges = [("0/3000000", "0/5000000"), ("0/6000000", "0/7000000")] if gaps else [("0/3000000", "0/7000000")]
    timeline = TimelineStatus(
        branch="00000001", timeline=1, ancestry="1", ranges=ranges, gaps=[("0/5000000", "0/6000000")] if gaps else [],
        last_contiguous=ranges[0][1], archived_at=NOW - timedelta(seconds=4),
    )  # fmt: skip
    near = LocationArchive("near", [ServerArchive("7300000000000000001", [timeline])])
    far = LocationArchive("far", error=error) if error else LocationArchive("far")
    window = Window(
        system_identifier="7300000000000000001", point_id="p-physical-1", point_timeline=1, timeline=1,
        first="0/3000100", first_time=NOW - timedelta(hours=1), last=ranges[0][1], last_time=NOW, validated=False,
    )  # fmt: skip
    return ArchiveStatus("shop", configured, [near, far], [window])


ARCHIVER = ArchiverStatus(
    "archives",
    WalProgress(
        region="region-a", epoch=3, system_identifier="7300000000000000001", timeline=1, archived="0/7000000",
        server_position="0/7000800", lag_bytes=2048, current_at=NOW - timedelta(seconds=5),
        held=HeldWal(retained_bytes=1 << 20), standbys={"region-b": "0/7000000"}, behind={"far": "it misses WAL"},
    ),
)  # fmt: skip


def shown(monkeypatch: pytest.MonkeyPatch, status: ArchiveStatus, archiver: ArchiverStatus | None, *form: str) -> Any:
    async def look(config: Config, name: str) -> tuple[ArchiveStatus, ArchiverStatus | None]:
        return status, archiver

    monkeypatch.setattr(wal_command, "_status", look)
    return drctl("wal", "status", *form)


def test_the_archive_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(monkeypatch, found(), ARCHIVER)
    assert said.exit_code == 0, said.output
    for words in (
        "archived at region-a (epoch 3) to 0/7000000 on timeline 1, 2 KiB behind; achieved RPO",
        "the slot holds 1 MiB", "standby region-b holds WAL from 0/7000000", "far: it misses WAL",
        "0/3000000 to 0/7000000", "reachable: timeline 1 from 0/3000100", "not validated",
    ):  # fmt: skip
        assert words in " ".join(said.stdout.split()), words


def test_objects_that_are_no_pieces_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    status = found()
    server = status.locations[0].servers[0]
    server.timelines[0].strays.extend(f"shop/postgres-wal/7/00000001/pieces/00000000/{n}\x1b[31m" for n in range(7))
    said = shown(monkeypatch, status, ARCHIVER)
    assert said.exit_code == 0
    assert "warning: no piece of WAL, but among those of timeline 1 at near, where it is passed over: " in said.stdout
    assert "pieces/00000000/4" in said.stdout
    assert said.stdout.count("/pieces/") == 5
    assert " and 2 more" in said.stdout
    assert "\x1b[31m" not in said.stdout
    answer = json.loads(shown(monkeypatch, status, ARCHIVER, "--output", "json").stdout)
    assert len(answer["locations"][0]["servers"][0]["timelines"][0]["strays"]) == 7


@pytest.mark.parametrize(
    ("status", "archiver", "code"),
    [
        (found(gaps=True), ARCHIVER, 1),
        (found(error="no answer"), ARCHIVER, 3),
        (found(), ArchiverStatus("no session runs"), 1),
        (found(configured=False), None, 0),
    ],
)
def test_the_exit_code_says_whether_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, status: ArchiveStatus, archiver: ArchiverStatus | None, code: int
) -> None:
    assert shown(monkeypatch, status, archiver).exit_code == code


def test_the_archive_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.loads(shown(monkeypatch, found(gaps=True), ARCHIVER, "--output", "json").stdout)
    (timeline,) = answer["locations"][0]["servers"][0]["timelines"]
    assert timeline["gaps"] == [["0/5000000", "0/6000000"]]
    assert (timeline["last_contiguous"], timeline["age_seconds"] >= 4) == ("0/5000000", True)
    assert answer["archiver"]["achieved_rpo_seconds"] >= 5
    assert (answer["archiver"]["archived"], answer["windows"][0]["last"]) == ("0/7000000", "0/5000000")
