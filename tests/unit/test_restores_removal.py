"""The undo of a restore removes what is its own, and leaves what somebody else put in the same place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from recovery.adapters.restores import PostgresRestores
from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.errors import NotOurs, Refused
from recovery.ports.recovery_points import RestoreOrder

GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[
        RegionPlan(
            name="region-b", task_queue="b", postgres=PostgresAt(host="127.0.0.1", data_directory="/var/lib/shop")
        )
    ],
    logical_databases=["shop", "stock"],
)
PHYSICAL, LOGICAL = "20261122T101500Z-physical-1a2b3c4d", "20261122T101500Z-logical-1a2b3c4d"


class Engine:
    """Answers removals: True, False, or an error to raise, by what is to be removed."""

    def __init__(self, answers: dict[str, bool | Exception]) -> None:
        self.answers = answers

    async def remove_restored(self, place: Any, restore_id: str) -> bool:
        return self.answer(str(place.data_directory))

    async def remove_restored_database(self, login: Any, database: str, restore_id: str) -> bool:
        return self.answer(database)

    def answer(self, name: str) -> bool:
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Logins:
    async def admin(self, group: str, region: str) -> Any:
        return None


def removal(point_id: str, answers: dict[str, bool | Exception]) -> Awaitable[bool]:
    engine = Engine(answers)
    nothing: Callable[..., Any] = lambda *_: engine  # noqa: E731
    restores = PostgresRestores(nothing, None, nothing, Logins())  # type: ignore[arg-type]
    return restores.remove(RestoreOrder(group=GROUP, region="region-b", point_id=point_id, restore_id="r1"))


@pytest.mark.parametrize(
    ("point_id", "answers", "removed"),
    [
        (PHYSICAL, {"/var/lib/shop": True}, True),
        (PHYSICAL, {"/var/lib/shop": NotOurs("belongs to restore r0")}, False),
        (LOGICAL, {"shop": NotOurs("is not the work of restore r1"), "stock": True}, True),
        (LOGICAL, {"shop": NotOurs("is not the work of restore r1"), "stock": False}, False),
    ],
)
async def test_what_is_not_ours_stays_and_is_no_failure(
    point_id: str, answers: dict[str, bool | Exception], removed: bool
) -> None:
    assert await removal(point_id, answers) is removed


@pytest.mark.parametrize(("point_id", "name"), [(PHYSICAL, "/var/lib/shop"), (LOGICAL, "shop")])
async def test_another_refusal_is_a_failure_of_the_undo(point_id: str, name: str) -> None:
    with pytest.raises(Refused):
        await removal(point_id, {name: Refused("PostgreSQL did not let the user in"), "stock": False})
