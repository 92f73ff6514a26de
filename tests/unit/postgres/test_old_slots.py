"""Which slots of a former owner are of no use any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from recovery.adapters.handover import PostgresHandover
from recovery.domain.replication import ReplicationState, SlotState, standby_slot
from recovery.ports.postgres import PostgresLogin
from tests.fakes.handover import group_of

GROUP = group_of("a", "b", "c")


def slot(region: str, *, active: bool = False, **more: Any) -> SlotState:
    return SlotState(name=standby_slot(region), active=active, **more)


@dataclass
class Server:
    slots: list[SlotState] = field(default_factory=list)
    in_recovery: bool = True
    receiving: bool | None = True
    dropped: list[str] = field(default_factory=list)

    async def replication_state(self, login: PostgresLogin, *, timeout: float = 5.0) -> ReplicationState:
        return ReplicationState(
            in_recovery=self.in_recovery, position="0/3000000", timeline=2, slots=self.slots,
            receiving=self.receiving, at=datetime(2026, 11, 22, tzinfo=UTC),
        )  # fmt: skip

    async def drop_slots(self, login: PostgresLogin, names: Sequence[str]) -> list[str]:
        self.dropped += names
        return list(names)


class Logins:
    async def admin(self, group: str, region: str) -> PostgresLogin:
        return PostgresLogin(region, 5432, "postgres")


async def dropped(a: Server, b: Server) -> list[str]:
    """Of a, which was the owner before b."""
    servers = {"a": a, "b": b}
    handover = PostgresHandover(
        cast(Any, Logins()), lambda group, region: cast(Any, servers[region]), lambda *_: cast(Any, None)
    )
    found = await handover.drop_old_slots(GROUP, "a", "b")
    assert found == a.dropped
    return found


def owner(*slots: SlotState) -> Server:
    return Server([slot("a", active=True), *slots], in_recovery=False, receiving=None)


async def test_the_new_owners_and_that_of_a_standby_which_moved_on() -> None:
    a = Server([slot("b"), slot("c"), SlotState(name="somebody", active=False)])
    assert await dropped(a, owner(slot("c", active=True))) == ["standby_b", "standby_c"]


async def test_a_standby_that_streams_from_nobody_keeps_its_slot() -> None:
    assert await dropped(Server([slot("b"), slot("c")]), owner(slot("c"))) == ["standby_b"]


@pytest.mark.parametrize(
    "kept",
    [slot("b", active=True), slot("b", temporary=True), slot("b", physical=False), slot("a")],
    ids=["in use", "temporary", "logical", "its own"],
)
async def test_others_are_kept(kept: SlotState) -> None:
    assert await dropped(Server([kept]), owner()) == []


async def test_a_region_that_does_not_follow_keeps_all() -> None:
    assert await dropped(Server([slot("b")], receiving=False), owner()) == []
    assert await dropped(Server([slot("b")], in_recovery=False, receiving=None), owner()) == []


async def test_nothing_is_dropped_for_an_owner_that_is_no_primary() -> None:
    assert await dropped(Server([slot("b")]), Server([slot("c", active=True)])) == []
