"""One backup of a kind at a time per PostgreSQL, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from recovery.adapters.backup_lock import backup_lock
from recovery.errors import Refused
from tests.integration.postgres_servers import Server, eventually, public_folder, running_source


@pytest.fixture(scope="module")
async def source() -> AsyncIterator[Server]:
    with public_folder() as folder:
        async with running_source(folder) as server:
            yield server


async def held(server: Server) -> int:
    return int(await server.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))


async def test_a_second_backup_is_refused_with_the_point_of_the_first(source: Server) -> None:
    async with backup_lock(source.login, "point-1", "physical"):
        with pytest.raises(Refused, match=r"another physical backup .* is running \(point-1\)"):
            async with backup_lock(source.login, "point-2", "physical"):
                pytest.fail("two at once")
        async with backup_lock(source.login, "point-3", "logical"):
            assert await held(source) == 2, "another kind is free"
    assert await held(source) == 0


async def test_the_lock_ends_with_its_holder(source: Server) -> None:
    entered = asyncio.Event()

    async def hold() -> None:
        async with backup_lock(source.login, "point-1", "physical"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await entered.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async def free() -> bool:
        return await held(source) == 0

    await eventually(free)


async def test_an_attempt_takes_the_lock_from_the_attempt_before_it(source: Server) -> None:
    """A worker that hangs keeps its session; Temporal gave its step to us."""
    async with (
        backup_lock(source.login, "point-1", "physical"),
        asyncio.timeout(30),
        backup_lock(source.login, "point-1", "physical"),
    ):
        assert await held(source) == 1
        with pytest.raises(Refused):
            async with backup_lock(source.login, "point-2", "physical"):
                pytest.fail("two at once")
