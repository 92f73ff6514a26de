"""What a stored schedule was applied from is compared, where it can be read."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter

from recovery.config import Config
from tests.unit.config.conftest import MINIMAL
from workers.codec import EncryptionCodec
from workers.schedules import HASH, _schedule, apply_schedules, planned


def encrypted(byte: bytes) -> DataConverter:
    key = base64.b64encode(byte * 32).decode()
    return dataclasses.replace(pydantic_data_converter, payload_codec=EncryptionCodec(key))


class Temporal:
    """The part of a client that schedules need: memos are stored as ``data_converter`` encodes them."""

    def __init__(self) -> None:
        self.data_converter = encrypted(b"a")
        self.stored: dict[str, Schedule] = {}

    async def list_schedules(self) -> AsyncIterator[Any]:
        async def listed() -> AsyncIterator[Any]:
            for schedule_id in list(self.stored):
                yield SimpleNamespace(id=schedule_id)

        return listed()

    def get_schedule_handle(self, schedule_id: str) -> Any:
        async def describe() -> Any:
            return SimpleNamespace(schedule=self.stored[schedule_id])

        async def update(change: Callable[[Any], Any]) -> None:
            changed = change(SimpleNamespace(description=await describe()))
            await self.create_schedule(schedule_id, changed.schedule)

        return SimpleNamespace(describe=describe, update=update)

    async def create_schedule(self, schedule_id: str, schedule: Schedule) -> None:
        action = cast(ScheduleActionStartWorkflow, schedule.action)
        assert action.memo is not None
        [stored] = await self.data_converter.encode([action.memo[HASH]])
        action.memo = {HASH: stored}
        self.stored[schedule_id] = schedule


@pytest.mark.parametrize("now", [encrypted(b"b"), pydantic_data_converter], ids=["another key", "none any more"])
async def test_schedules_that_were_written_with_another_payload_key_are_written_anew(now: DataConverter) -> None:
    """Their paused state is no payload, and stays."""
    config, temporal = Config.parse(MINIMAL.read_text()), Temporal()
    client = cast(Client, temporal)
    for entry in planned(config):
        await temporal.create_schedule(entry.schedule_id, _schedule(entry))
    names = sorted(temporal.stored)
    temporal.stored[names[0]].state.paused = True
    assert sorted((await apply_schedules(client, config)).unchanged) == names
    temporal.data_converter = now
    applied = await apply_schedules(client, config)
    assert (sorted(applied.updated), applied.created, applied.deleted) == (names, [], [])
    assert [temporal.stored[name].state.paused for name in names] == [True, *[False] * (len(names) - 1)]
    assert sorted((await apply_schedules(client, config)).unchanged) == names, "they can be read again"
