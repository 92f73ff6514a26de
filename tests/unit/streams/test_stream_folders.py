"""``--from-folder``: what is refused before the first stream is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from recovery.adapters.nats.folder import read_folders, restore_folders
from recovery.errors import BadInput, Corrupt, NotFound, RecoveryError, Refused, RestoreFailed
from recovery.ports.jetstream import AccountSeen, RestoredStream, StreamRestoreOptions, StreamSeen
from tests.fakes.jetstream import archive, config_of, entry, framed, state_of


def backup(
    folder: Path, stream: str = "events", *, messages: int = 3, data: bytes | None = None, **config: Any
) -> Path:
    """One as the ``nats`` command leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    description = {"config": config_of(stream, **config), "state": state_of(messages)}
    (folder / "backup.json").write_text(json.dumps(description))
    (folder / "stream.arc.s2").write_bytes(archive(state_of(3)) if data is None else data)
    return folder


async def test_one_backup_and_a_folder_of_them_are_read(tmp_path: Path) -> None:
    for name in ("orders", "audit"):
        backup(tmp_path / name, name)
    (one,) = await read_folders(tmp_path / "orders")
    assert (one.stream, one.path) == ("orders", tmp_path / "orders")
    assert [each.stream for each in await read_folders(tmp_path)] == ["audit", "orders"]
    assert [each.stream for each in await read_folders(tmp_path, ["orders"])] == ["orders"]


async def test_what_is_no_backup_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is no folder on this machine"):
        await read_folders(tmp_path / "nowhere")
    with pytest.raises(NotFound, match=r"has no backup\.json, and no folder with one"):
        await read_folders(tmp_path)
    backup(tmp_path / "orders", "orders")
    with pytest.raises(NotFound, match="has no backup of stream audit: it has none of those"):
        await read_folders(tmp_path, ["audit"])
    backup(tmp_path / "copy", "orders")
    with pytest.raises(BadInput, match="are both of stream orders: name one"):
        await read_folders(tmp_path)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"data": archive(state_of(3))[:-1]}, "is damaged or incomplete"),
        ({"data": framed(b"NATSARC1" + entry("other.json", b"{}"), bytes(5))}, "its first entry is 'other.json'"),
        ({"messages": 4}, "holds files of two backups: its archive says messages 3, and backup.json 4"),
    ],
    ids=["cut off", "another archive", "two backups"],
)
async def test_files_that_are_not_of_one_whole_backup_are_corrupt(
    tmp_path: Path, about: dict[str, Any], said: str
) -> None:
    with pytest.raises(Corrupt, match=said):
        await read_folders(backup(tmp_path / "events", **about))


class Account:
    """Takes streams, and says in which order; the one called ``failing`` fails."""

    def __init__(self, *there: str, clustered: bool = False, failing: str = "") -> None:
        seen = cast(StreamSeen, type("Seen", (), {"messages": 7}))
        self.seen = AccountSeen("127.0.0.1", 4222, "2.15.1", 9, clustered, dict.fromkeys(there, seen))
        self.failing = failing
        self.restored: list[str] = []

    async def look(self) -> AccountSeen:
        return self.seen

    async def restore(self, stored: Any, archive: Any, options: StreamRestoreOptions) -> RestoredStream:
        await archive.aclose()
        name = str(stored.config["name"])
        if name == self.failing:
            raise RestoreFailed(f"{name} was refused.")
        self.restored.append(name)
        return cast(RestoredStream, type("Restored", (), {"stream": name}))


async def restored(account: Account, folder: Path, **options: Any) -> None:
    folders = await read_folders(folder)
    await restore_folders(cast(Any, account), folders, StreamRestoreOptions("folder-1", **options))


@pytest.mark.parametrize(
    ("account", "config", "options", "said"),
    [
        (Account("orders"), {}, {}, "has orders .7 messages. already: say --replace"),
        (Account(), {"num_replicas": 3}, {}, "had 3 replicas, and NATS .* is a single server"),
        (Account(), {}, {"replicas": 3}, "is a single server"),
    ],
    ids=["there already", "replicas", "replicas that were asked for"],
)
async def test_nothing_is_touched_where_one_of_them_cannot_be_restored(
    tmp_path: Path, account: Account, config: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    backup(tmp_path / "audit", "audit")
    backup(tmp_path / "orders", "orders", **config)
    with pytest.raises(Refused, match=said):
        await restored(account, tmp_path, **options)
    assert account.restored == []


async def test_what_was_said_beforehand_is_restored(tmp_path: Path) -> None:
    backup(tmp_path / "orders", "orders", num_replicas=3)
    for account, options in (
        (Account("orders", clustered=True), {"replace": True}),
        (Account(), {"replicas": 1}),
    ):
        await restored(account, tmp_path, **options)
        assert account.restored == ["orders"]


async def test_an_error_on_the_way_names_what_is_there_by_then(tmp_path: Path) -> None:
    for name in ("audit", "orders"):
        backup(tmp_path / name, name)
    with pytest.raises(RecoveryError, match="^audit was refused.$"):
        await restored(Account(failing="audit"), tmp_path)
    with pytest.raises(RestoreFailed, match="Restored before it, and left as they are: audit"):
        await restored(Account(failing="orders"), tmp_path)
