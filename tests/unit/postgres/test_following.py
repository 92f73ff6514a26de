"""A standby that is to receive nothing more says so in time, or is said not to have."""

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


async def test_a_frozen_standby_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Frozen()

    @contextlib.asynccontextmanager
    async def connected(login: PostgresLogin, what: str) -> AsyncIterator[Frozen]:
        yield server

    monkeypatch.setattr(following, "connected", connected)
    monkeypatch.setattr(following, "CONFIRM_SECONDS", 0.02)
    async with asyncio.timeout(5):
        with pytest.raises(Unreachable, match="/data does not answer"):
            await following.stop_receiving(cast(Any, server))
