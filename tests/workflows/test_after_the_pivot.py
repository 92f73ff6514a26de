"""What is dead or refuses after the point of no return: held with its reason and choices, and never half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client, WorkflowFailureError

from recovery.domain.group import DnsRecord
from recovery.domain.plan import DnsBefore
from recovery.domain.report import RunReport, RunState
from recovery.errors import RecoveryError, Refused, Unreachable
from recovery.ports.notify import Severity
from tests.fakes.dns import FakeDnsZone
from tests.workflows.conftest import Rig
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="looked at both regions")
ZONE = "shop.test"
NAMES = ("api", "www")
HOME, TARGET = "192.0.2.1", "192.0.2.2"


class Provider(FakeDnsZone):
    """``refuses``: what every change ends with. ``late``: seconds until a change is made, heard of or not; so long a
    change takes that is not given up. ``settles``: whether the name servers ever say so."""

    def __init__(self) -> None:
        super().__init__(
            [DnsBefore(name=f"{name}.{ZONE}", type="A", ttl=60, values=[HOME], zone=ZONE) for name in NAMES]
        )
        self.refuses: RecoveryError | None = None
        self.late = 0.0
        self.settles = True
        self.changes = 0

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        if self.refuses is not None:
            raise self.refuses
        seconds, self.late = self.late, 0.0
        await asyncio.shield(asyncio.create_task(self._made(changes, seconds)))

    async def _made(self, changes: list[tuple[DnsBefore, DnsBefore]], seconds: float) -> None:
        await asyncio.sleep(seconds)
        await super().replace(changes)
        self.changes += 1

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        if not self.settles:
            await asyncio.sleep(60)
        return []

    @property
    def points_at(self) -> list[str]:
        return [self.records[f"{name}.{ZONE}", "A", ZONE, None].values[0] for name in NAMES]


@pytest.fixture
async def leading(temporal: Client) -> AsyncIterator[Rig]:
    """Leads two names from region-a to region-b."""
    rig = Rig(temporal)
    rig.zone, addresses = Provider(), {"region-a": HOME, "region-b": TARGET}
    regions = [
        region.model_copy(update={"dns_value": addresses[region.name], "task_queue": rig.queue})
        for region in rig.world.group.regions
    ]
    records = [DnsRecord(name=f"{name}.{ZONE}", zone=ZONE) for name in NAMES]
    rig.world.group = rig.world.group.model_copy(update={"regions": regions, "records": records})
    rig.world.target = "region-b"
    async with rig.worker():
        yield rig


@pytest.fixture
def provider(leading: Rig) -> Provider:
    assert isinstance(leading.zone, Provider)
    return leading.zone


def critical(rig: Rig) -> list[str]:
    return [message.body for message in rig.notifier.sent if message.severity is Severity.CRITICAL]


def held_words(report: RunReport, step: str) -> str:
    (choice,) = report.hold_choices
    assert choice.startswith(f"{step}: ") and choice.endswith("Choose retry, skip, abort.")
    return choice


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("refuses", "the key may not update shop.test"),
        ("silent", "the DNS server did not answer within 5 s"),
        ("slow", "192.0.2.2 is made, and waiting until all name servers say so took longer than the 0.9 s of an attem"),
    ],
)
async def test_a_provider_that_refuses_or_is_slow_holds_the_plan_with_its_words(
    leading: Rig, provider: Provider, how: str, words: str
) -> None:
    if how == "slow":
        provider.settles = False
    else:
        silent = Unreachable("the DNS server did not answer within 5 s")
        provider.refuses = silent if how == "silent" else Refused("the key may not update shop.test")
    handle = await leading.start(plan="Leading")
    report = await leading.until_state(handle, RunState.HELD)
    held = held_words(report, "switch-dns")
    if how == "slow" and words not in held:
        # An attempt that is under way when the budget ends may leave the server without the words of those before it.
        words = "of no attempt is it known how it ended"
    assert words in held
    assert provider.points_at == ([TARGET] * 2 if how == "slow" else [HOME] * 2), "all names, or none"
    provider.refuses, provider.settles = None, True
    await handle.execute_update("retry", ANA)
    assert (await handle.result()).state is RunState.COMPLETED
    assert (provider.points_at, provider.changes) == ([TARGET] * 2, 1)
    assert any(words in body for body in critical(leading))


async def test_a_change_that_takes_longer_than_an_attempt_ends_well_all_the_same(
    leading: Rig, provider: Provider
) -> None:
    provider.late = 1.5
    report = await (await leading.start(plan="Leading")).result()
    assert report.state is RunState.COMPLETED
    assert next(step for step in report.steps if step.name == "switch-dns").attempts > 1
    await asyncio.sleep(1)  # the first attempt's change arrives, if it has not yet
    assert (provider.points_at, report.hold_choices) == ([TARGET] * 2, [])


@pytest.mark.parametrize("choice", ["skip", "abort"])
async def test_without_the_names_the_group_is_left_whole_and_free(
    leading: Rig, provider: Provider, choice: str
) -> None:
    provider.refuses = Refused("the key may not update shop.test")
    handle = await leading.start(plan="Leading")
    await leading.until_state(handle, RunState.HELD)
    await handle.execute_update(choice, ANA)
    if choice == "skip":
        assert (await handle.result()).state is RunState.COMPLETED
    else:
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert "stopped after its point of no return" in str(caught.value.cause)
    assert provider.points_at == [HOME] * 2
    record = leading.ownership.records["shop"][0]
    assert (record.run, record.pivot) == (None, None)
    assert not [line for line in leading.world.log if line.startswith("undo")]


@pytest.mark.parametrize("choice", ["retry", "abort"])
async def test_a_target_that_stays_dead_is_held_with_its_reason_until_somebody_chooses(rig: Rig, choice: str) -> None:
    """Neither does its guard promote, nor can anybody look whether it did. When it is back a retry goes on; else it is
    left, and another run, to another region, finds the group free."""
    dead = Unreachable("the guard of region-b takes no connection")
    rig.world.group = rig.world.group.model_copy(update={"budgets": {"Rehearsal.pivot": 2.0}})
    rig.world.fail_before["pivot"] = [dead] * 1_000
    rig.world.fail_observe["pivot"] = [Refused(str(dead))]
    handle = await rig.start()
    report = await rig.until_state(handle, RunState.HELD)
    assert str(dead) in held_words(report, "pivot")
    assert f"pivot: its effect could not be observed: {dead}" in report.warnings
    assert report.undo_order == [], "nothing that could make two primaries is undone"
    rig.world.fail_before["pivot"].clear()
    await handle.execute_update(choice, ANA)
    if choice == "retry":
        assert (await handle.result()).state is RunState.COMPLETED
    else:
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert "pivot" not in rig.world.present
        another = await (await rig.start()).result()
        assert another.state is RunState.COMPLETED
    assert any(str(dead) in body for body in critical(rig))
