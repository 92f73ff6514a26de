"""The partitions of tests/integration/test_fault_partitions.py with packets that the kernel drops.

A new connection into a cut network meets nobody here, and TCP gives up and retransmits as it does in a real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lab import faults
from lab.control import Supervised
from tests.integration.conftest import guarded
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import guarded_site
from tests.integration.test_fault_partitions import (
    test_a_lone_monitor_starts_nothing,
    test_a_partition_with_the_witness_on_the_other_side_moves_the_group,
    test_a_partition_with_the_witness_on_the_primarys_side_changes_nothing,
    test_a_region_whose_packets_are_dropped_is_replaced,
    test_an_asymmetric_partition_leaves_one_writer,
)
from tests.system import packets

pytestmark = pytest.mark.system
__all__ = [
    "guarded",
    "test_a_lone_monitor_starts_nothing",
    "test_a_partition_with_the_witness_on_the_other_side_moves_the_group",
    "test_a_partition_with_the_witness_on_the_primarys_side_changes_nothing",
    "test_a_region_whose_packets_are_dropped_is_replaced",
    "test_an_asymmetric_partition_leaves_one_writer",
]


@pytest_asyncio.fixture(scope="module")
async def running_guarded() -> AsyncIterator[GuardedSite]:
    """A guarded installation whose network is the kernel's."""
    packets.check_own_namespace()
    with pytest.MonkeyPatch.context() as patch:
        async with guarded_site() as site:

            async def put_network(supervised: Supervised, network: faults.Network) -> None:
                await packets.put_network(site.lab, supervised, network)

            patch.setattr(faults, "put_network", put_network)
            yield site


async def test_packets_are_really_dropped(guarded: GuardedSite) -> None:
    """Else the other tests of this file would prove nothing about the kernel's network."""
    await guarded.isolate(guarded.active)
    host, port = guarded.lab.seen_from("outside", guarded.active, "postgres")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection(host, port), 1)
    assert packets.dropped() > 0
    await guarded.lab.heal()
    _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
    writer.close()
    await guarded.settled()
    guarded.never_two_writers()
