"""What a vantage point's loop needs: regions to look at, somebody to tell, and who owns a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from recovery.domain.health import Finding, Part, ReplicaLag, Report, Sighting
from recovery.domain.ownership import OwnershipRecord


class StoreProbe(Protocol):
    """One server, or several of a kind, in one region."""

    async def look(self, part: Part) -> list[Finding]:
        """Asks once. Bounded in time by itself; what does not answer, or not as it should, is a finding."""
        ...


class RegionProbe(Protocol):
    """Everything of one group in one region."""

    async def look(self, part: Part) -> Sighting:
        """As ``StoreProbe.look``, all of them at the same time."""
        ...


class ReplicationProbe(Protocol):
    """How far the replicas of one group are behind."""

    async def replicas(self, owner: str) -> Sequence[ReplicaLag]:
        """Every replica of every store that follows the owner's. What cannot be asked is left out."""
        ...


class ReportSink(Protocol):
    async def send(self, report: Report) -> None:
        """Tells the group's monitor.

        Raises:
            Unreachable: it could not be told within a few seconds.
        """
        ...


class OwnershipReader(Protocol):
    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        """See ``recovery.ports.ownership.OwnershipStore.read``."""
        ...


class HealthMeasurements(Protocol):
    """Never raises and never waits."""

    def health_checked(self, region: str, healthy: bool) -> None: ...

    def probed(self, group: str, region: str, check: str, *, passed: bool, seconds: float) -> None: ...

    def region_judged(self, group: str, region: str, vantage: str, *, lost: bool | None) -> None: ...

    def replica_seen(self, group: str, replica: ReplicaLag) -> None: ...

    def loop_frozen(self, vantage: str, seconds: float) -> None: ...

    def monitor_silent(self, vantage: str, seconds: float) -> None: ...
