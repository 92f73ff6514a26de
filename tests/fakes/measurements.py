"""Remembers what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from recovery.domain.handover import StoreDivergence
from recovery.domain.recovery_counts import CountedRecovery
from recovery.domain.recovery_point import CheckResult, Verdict


@dataclass
class FakeMeasurements:
    """Each list holds the arguments of one kind of measurement, in order."""

    backups: list[tuple[str, str, float]] = field(default_factory=list)
    stored: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    verdicts: list[tuple[Verdict, str, datetime]] = field(default_factory=list)
    validations: list[tuple[str, bool]] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    recoveries: list[CountedRecovery] = field(default_factory=list)
    failovers: list[tuple[str, str, str, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    losses: dict[str, int] = field(default_factory=dict)
    diverged: list[tuple[str, StoreDivergence]] = field(default_factory=list)
    stores: list[tuple[dict[str, float], float | None]] = field(default_factory=list)

    def backup_finished(self, kind: str, status: str, seconds: float) -> None:
        self.backups.append((kind, status, seconds))

    def backup_stored(self, kind: str, bytes_by_location: dict[str, int]) -> None:
        self.stored.append((kind, bytes_by_location))

    def point_validated(self, verdict: Verdict, kind: str, taken_at: datetime) -> None:
        self.verdicts.append((verdict, kind, taken_at))

    def validation_finished(self, group: str, all_valid: bool) -> None:
        self.validations.append((group, all_valid))

    def recovery_checked(self, checks: list[CheckResult]) -> None:
        self.checks.extend(checks)

    def recovery_finished(self, recovery: CountedRecovery) -> None:
        self.recoveries.append(recovery)

    def failover_finished(self, from_region: str, to_region: str, reason: str, seconds: float) -> None:
        self.failovers.append((from_region, to_region, reason, seconds))

    def failover_failed(self, reason: str) -> None:
        self.failed.append(reason)

    def stores_recovered(self, rpo: Mapping[str, float], skew: float | None) -> None:
        self.stores.append((dict(rpo), skew))

    def divergence_saved(self, group: str, found: StoreDivergence) -> None:
        self.diverged.append((group, found))

    def data_lost(self, store: str, count: int) -> None:
        self.losses[store] = count
