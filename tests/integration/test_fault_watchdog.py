"""The watchdog strength on a whole site: beneath guard and companion a device resets the host that nobody pets.

The guard's part of it is the product's; the device and the kernel's act are ``watchdog_device``'s. What a whole host
that was frozen still accepts under ``guard``, for one ttl at most, is not accepted here: the host is reset before its
lease has ended, by a clock that goes on while it stands still.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from ruamel.yaml import YAML

from lab import Lab
from lab.state import GUARD
from recovery.domain.ownership import Strength
from recovery.guard.watchdog import KernelWatchdog
from tests.integration.armed_site import ArmedInstallation
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import TIMES, guarded_site
from tests.integration.guarded_verdicts import accounted
from tests.integration.test_fault_matrix import FROZEN, TTLS
from tests.integration.watchdog_device import Device

TIMES_HERE = replace(TIMES, ttl=6.0)
SECONDS = float(KernelWatchdog(None, TIMES_HERE.ttl).timeout)

Devices = dict[str, Device]


@pytest_asyncio.fixture(scope="module")
async def devices() -> AsyncIterator[Devices]:
    """By region."""
    made: Devices = {}
    yield made
    for device in made.values():
        device.end()


@pytest_asyncio.fixture(scope="module")
async def running_guarded(devices: Devices) -> AsyncIterator[GuardedSite]:
    async def prepare(lab: Lab, installation: ArmedInstallation) -> None:
        yaml = YAML()
        for region in lab.describe().regions:
            devices[region] = Device.made(installation.folder, region, SECONDS)
            await devices[region].start(lab)
            document = yaml.load(installation.files[region])
            document["guards"]["watchdog_device"] = str(devices[region].pipe)
            yaml.dump(document, installation.files[region])

    async with guarded_site(TIMES_HERE, prepare=prepare) as site:
        yield site


@pytest.mark.chaos  # a site of its own; tests/unit/guard/test_watchdog.py has the guard's part
@pytest.mark.parametrize(("what", "ttls"), list(itertools.product(FROZEN, TTLS)))
async def test_a_host_that_is_frozen_is_reset_and_never_writes_beside_another(
    guarded: GuardedSite, devices: Devices, what: str, ttls: float
) -> None:
    source = guarded.active
    frozen, thawed = await guarded.frozen_for(ttls, source, *FROZEN[what])
    assert guarded.never_two_writers().overlap_seconds == 0.0
    resets = devices[source].resets(frozen)
    other = devices[guarded.other if guarded.active == source else guarded.active]
    assert other.resets(frozen) == [], "the other host was petted all the time"
    if GUARD not in FROZEN[what]:
        assert resets == [], "a guard that runs pets for its host, whatever its stores do"
    elif ttls * guarded.times.ttl > SECONDS + 1:
        assert len(resets) == 1 and resets[0] - frozen < guarded.times.ttl, "before the lease has ended"
    # Its PostgreSQL served until then, if that was not frozen, too.
    ended = resets[0] if resets and "postgres" not in FROZEN[what] else frozen
    for report in await accounted(guarded, ended, woken_at=thawed):
        assert report.fence is not None
        assert set(report.fence.strengths.values()) == {Strength.WATCHDOG}
