"""An incremental base backup that the server refuses becomes a full one, which says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from recovery.adapters.postgres import physical
from recovery.adapters.postgres.physical import PhysicalSource
from recovery.adapters.postgres.replication import BackupHeader
from recovery.errors import SourceFailed, Unreachable
from recovery.ports.postgres import BaseBackupOptions, IncrementalBase, PostgresLogin

LOGIN = PostgresLogin("db", 5432)
BASE = IncrementalBase(("full", "first"), b"{}")


class Session:
    """A walsender that takes what it is given, or says why not."""

    said: ClassVar[list[str]] = []
    refusal: ClassVar[Exception | None] = None

    def __init__(self, login: PostgresLogin) -> None: ...

    async def open(self) -> None:
        self.said.append("open")

    async def close(self) -> None:
        self.said.append("close")

    async def query(self, command: str) -> list[Any]:
        return []

    async def upload_manifest(self, manifest: bytes) -> None:
        self.said.append(f"upload {manifest.decode()}")

    async def start_backup(self, label: str, *, checkpoint: str, incremental: bool) -> BackupHeader:
        self.said.append("incremental" if incremental else "full")
        if incremental and self.refusal is not None:
            raise self.refusal
        return BackupHeader("0/4000028", 1, 0)


def source_of(monkeypatch: pytest.MonkeyPatch, refusal: Exception | None = None, major: int = 18) -> PhysicalSource:
    monkeypatch.setattr(Session, "said", [])
    monkeypatch.setattr(Session, "refusal", refusal)
    monkeypatch.setattr(physical, "ReplicationSession", Session)
    source = PhysicalSource(LOGIN, "point", options=BaseBackupOptions(base=BASE))
    source._identity = cast(Any, SimpleNamespace(major=major, version=f"{major}.4"))
    return source


async def test_what_it_builds_on_is_uploaded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(monkeypatch)
    await source._started()
    assert Session.said == ["open", "upload {}", "incremental"]
    assert (source._bases, source._notes) == (["full", "first"], [])


async def test_a_refusal_makes_a_full_one_in_a_fresh_session(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(monkeypatch, SourceFailed("WAL summaries are required on timeline 1"))
    await source._started()
    assert Session.said == ["open", "upload {}", "incremental", "close", "open", "full"]
    assert source._bases == []
    assert source._notes == [
        "a full base backup, since an incremental one was refused: WAL summaries are required on timeline 1"
    ]


async def test_a_server_that_does_not_answer_gives_no_full_one_either(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(monkeypatch, Unreachable("nobody answers"))
    with pytest.raises(Unreachable):
        await source._started()


async def test_an_older_server_refuses_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(monkeypatch, major=16)
    await source._started()
    assert "upload {}" not in Session.said
    assert source._notes[0].endswith(
        "PostgreSQL 16.4 at db:5432 takes no incremental base backups: version 17 and later do"
    )
