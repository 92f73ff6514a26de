"""A disk that really becomes full while a recovery point is restored onto it: a tmpfs, and something that fills it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.errors import NoSpace
from recovery.ports.postgres import PostgresPlace, RestoreOptions
from tests.integration.postgres_servers import public_folder, running_source, take
from tests.ports import free_port

pytestmark = pytest.mark.system

ROOM = 10_000_000  # bytes that are left to the restore, which needs five times as much


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty file system of 200 MB."""
    assert os.geteuid() == 0, "make test-system needs root, to mount a file system"
    with public_folder() as folder:
        mounted = folder / "disk"
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=1777", "tmpfs", mounted], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", "--lazy", mounted], check=True)


async def test_a_disk_that_becomes_full_is_said_and_the_target_removed(disk: Path) -> None:
    with public_folder() as folder:
        async with running_source(folder) as source:
            point = await take(source.postgres.physical_source(source.login, "physical-1"), "physical-1")
            place = PostgresPlace("127.0.0.1", free_port(), disk / "restored")
            filler = disk / "filler"

            def fill(done: int, expected: int) -> None:
                """Somebody else's file takes what is left, as soon as the restore has begun."""
                if done and not filler.exists():
                    state = os.statvfs(disk)
                    with filler.open("wb") as file:
                        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - ROOM)

            with pytest.raises(NoSpace, match="became full during the restore"):
                await source.postgres.restore_physical(point, place, RestoreOptions("restore-1"), fill)
    assert filler.exists(), "the disk was filled while the restore ran"
    assert list(disk.iterdir()) == [filler], "nothing of the restore is left"
