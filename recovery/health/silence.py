"""What a vantage point says itself when nobody can be told what it sees. It starts nothing: it is alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from recovery.domain.health import Verdict
from recovery.domain.words import duration, moment
from recovery.errors import RecoveryError
from recovery.health.outbox import Outbox
from recovery.ports.health import HealthMeasurements
from recovery.ports.notify import Notifier, Severity

log = structlog.get_logger("recovery.health")


class Silence:
    """Looks every second how long the groups' monitors could not be told.

    People are told once when it lasts for ``patience`` seconds, once more for each group whose owner is lost
    meanwhile, and once when it is over.
    """

    def __init__(
        self,
        vantage: str,
        outboxes: Sequence[Outbox],
        notifier: Notifier | None,
        measurements: HealthMeasurements,
        patience: float,
    ) -> None:
        self._vantage = vantage
        self._outboxes = outboxes
        self._notifier = notifier
        self._measurements = measurements
        self._patience = patience
        self._told: set[str] = set()
        self._is_told = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.look()

    async def look(self) -> None:
        longest = max((outbox.silent_for for outbox in self._outboxes), default=0.0)
        self._measurements.monitor_silent(self._vantage, longest)
        silent = [outbox for outbox in self._outboxes if outbox.silent_for > self._patience]
        if not silent:
            if self._is_told and longest == 0.0:
                self._is_told, self._told = False, set()
                await self._say(Severity.INFO, f"monitor {self._vantage} reaches Temporal again", "Votes count again.")
            return
        for outbox in silent:
            await self._tell_of_loss(outbox)
        if not self._is_told:
            self._is_told = True
            names = ", ".join(outbox.watch.group.snapshot.name for outbox in silent[:20])
            await self._say(
                Severity.WARNING,
                f"monitor {self._vantage} cannot reach Temporal",
                f"For {_words(longest)} nobody could be told how {names} are. Nothing fails over by itself until "
                "Temporal answers: see to it, or run the plans by hand where they are needed.",
            )

    async def _tell_of_loss(self, outbox: Outbox) -> None:
        watch = outbox.watch
        name = watch.group.snapshot.name
        if watch.owner_verdict is not Verdict.LOST:
            self._told.discard(name)
            return
        if name in self._told:
            return
        self._told.add(name)
        await self._say(
            Severity.CRITICAL,
            f"{name}: {watch.owner} is lost as {self._vantage} sees it, and Temporal cannot be asked",
            f"It fails since {moment(watch.owner_failing_since)}. One vantage point alone starts nothing, and what the "
            f"others see cannot be asked for {_words(outbox.silent_for)}. Look at the region and at Temporal.",
        )

    async def _say(self, severity: Severity, title: str, body: str) -> None:
        log.warning(title, detail=body)
        if self._notifier is None:
            return
        try:
            await self._notifier.send(severity, title, body)
        except RecoveryError as error:
            log.error("nobody could be notified", title=title, error=str(error))


def _words(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
