"""What runs measure, for whoever collects metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from recovery.domain.handover import StoreDivergence
from recovery.domain.recovery_counts import CountedRecovery
from recovery.domain.recovery_point import CheckResult, Verdict


class Measurements(Protocol):
    """Never raises and never waits: a metric must not fail a recovery. Times in seconds, sizes in bytes."""

    def backup_finished(self, kind: str, status: str, seconds: float) -> None: ...

    def backup_stored(self, kind: str, bytes_by_location: dict[str, int]) -> None: ...

    def point_validated(self, verdict: Verdict, kind: str, taken_at: datetime) -> None: ...

    def validation_finished(self, group: str, all_valid: bool) -> None: ...

    def recovery_checked(self, checks: list[CheckResult]) -> None: ...

    def recovery_finished(self, recovery: CountedRecovery) -> None: ...

    def failover_finished(self, from_region: str, to_region: str, reason: str, seconds: float) -> None: ...

    def failover_failed(self, reason: str) -> None: ...

    def data_lost(self, store: str, count: int) -> None: ...

    def divergence_saved(self, group: str, found: StoreDivergence) -> None: ...

    def stores_recovered(self, rpo: Mapping[str, float], skew: float | None) -> None: ...
