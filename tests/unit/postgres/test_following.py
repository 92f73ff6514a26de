"""A standby that stands still holds nobody who tells it whom to follow, or to receive nothing more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from recovery.adapters.postgres import following
from recovery.errors import Unreachable
from recovery.ports.postgres import PostgresLogin


class Frozen:
    """A server that takes connections and answers nothing, as after SIGSTOP."""

    folder = Path("/data")
    login = PostgresLogin("127.0.0.1", 5432)

    async def runs(self) -> bool:
        return True

    async def fetchrow(self, query: str) -> Any:
        await asyncio.Event().wait()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Frozen:
    made = Frozen()

    @contextlib.asynccontextmanager
    async def connected(login: PostgresLogin, what: str) -> AsyncIterator[Frozen]:
        yield made

    monkeypatch.setattr(following, "connected", connected)
    monkeypatch.setattr(following, "CONFIRM_SECONDS", 0.02)
    monkeypatch.setattr(following, "FOLLOW_SECONDS", 0.02)
    return made


async def test_stopping_its_receiver_is_given_up(server: Frozen) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="/data does not answer"):
            await following.stop_receiving(cast(Any, server))


async def test_following_is_given_up(server: Frozen) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="/data did not begin to follow 10.0.0.1:5432 in time"):
            await following.follow(cast(Any, server), "10.0.0.1", 5432, None, start_seconds=0.0)
