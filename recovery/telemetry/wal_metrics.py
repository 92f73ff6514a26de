"""Metrics of the WAL archives that this process keeps, beside those of runs on the same endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation

from recovery.domain.wal_progress import WalProgress
from recovery.telemetry.metrics import RecoveryMetrics


class WalMetrics:
    """``recovery.ports.wal_archives.WalMeasurements``. Seconds and bytes.

    Only what is archived here is shown: a group whose archive went elsewhere disappears from this endpoint.

    Args:
        configured: groups whose WAL some worker has to archive, so that an alert sees where none does.
    """

    def __init__(
        self, metrics: RecoveryMetrics, configured: Iterable[str] = (), *, clock: Callable[[], float] = time.time
    ) -> None:
        self._configured = sorted(configured)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, WalProgress] = {}
        meter = metrics.provider.get_meter("recovery-plans-wal")

        def gauge(name: str, unit: str, help: str, value: Callable[[WalProgress], float | None]) -> None:
            meter.create_observable_gauge(name, [self._observing(value)], unit, help)

        meter.create_observable_gauge(
            "dr_wal_archive_configured", [self._observe_configured], "", "Whether the group's WAL is to be archived"
        )
        gauge(
            "dr_wal_archived_age_seconds",
            "s",
            "Age of the newest moment up to which all commits are archived: the achieved RPO of the WAL archive",
            self._age,
        )
        gauge("dr_wal_archive_lag_bytes", "By", "WAL that is written and not archived", lambda each: each.lag_bytes)
        gauge(
            "dr_wal_archive_gap",
            "",
            "Whether WAL was removed before this session could archive it (1=yes, 0=no)",
            lambda each: int(each.gap is not None),
        )
        gauge(
            "dr_wal_archive_retained_bytes",
            "By",
            "WAL that the archive's slot keeps at the owner",
            lambda each: None if each.held is None else each.held.retained_bytes,
        )
        gauge(
            "dr_wal_archive_locations_behind",
            "",
            "Optional locations that miss pieces of this session",
            lambda each: len(each.behind),
        )
        self._bytes = meter.create_counter("dr_wal_archived_bytes_total", "By", "WAL that was archived, in bytes")

    def wal_archived(self, group: str, progress: WalProgress) -> None:
        with self._lock:
            before = self._known.get(group)
            self._known[group] = progress
        counted = before.archived_bytes if before is not None else 0
        self._bytes.add(max(progress.archived_bytes - counted, 0), {"group": group, "region": progress.region})

    def wal_archive_left(self, group: str) -> None:
        with self._lock:
            self._known.pop(group, None)

    def _age(self, progress: WalProgress) -> float | None:
        return None if progress.current_at is None else max(self._clock() - progress.current_at.timestamp(), 0.0)

    def _observing(
        self, value: Callable[[WalProgress], float | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                known = list(self._known.items())
            found = ((group, progress, value(progress)) for group, progress in known)
            return [
                Observation(number, {"group": group, "region": progress.region})
                for group, progress, number in found
                if number is not None
            ]

        return observe

    def _observe_configured(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(1, {"group": group}) for group in self._configured]
