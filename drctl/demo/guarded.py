"""An installation with guards on top of a guarded lab: one configuration per place, as that place sees the others."""

from __future__ import annotations

import asyncio
import secrets as random_secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drctl.demo.installation import (
    GROUP,
    Keys,
    Secrets,
    View,
    add_stores,
    base_document,
    dump,
    group_document,
    without_identities,
)
from lab import Lab
from lab.guarded import lend_fence
from lab.state import ATTENDANTS, CLIENTS, GUARD, MONITOR, OUTSIDE, WORKER

READY = {GUARD: "is ready", WORKER: "is ready", MONITOR: "looks at"}
"""Words that guards, workers and monitors print when they are."""


@dataclass(frozen=True)
class FailoverTimes:
    """The pace of detection and fencing, in seconds; what the issue's speed section measures with."""

    ttl: float = 5.0
    margin: float = 1.5
    interval: float = 1.0
    timeout: float = 1.0
    failures: int = 3
    recoveries: int = 2
    cooldown: float = 5.0
    drain: float = 3.0
    watch_for: float = 10.0
    lag_limit: float = 10.0
    policy: str = "automatic"
    synchronous: bool = False  # commits wait for the other region's standby

    def document(self, vantage_points: list[str]) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "health_check_interval": _text(self.interval),
            "health_check_timeout": _text(self.timeout),
            "failure_threshold": self.failures,
            "recovery_threshold": self.recoveries,
            "vantage_points": vantage_points,
            "dns_ttl": 1,
            "connection_drain_timeout": _text(self.drain),
            "cooldown": _text(self.cooldown),
            "approve_timeout": "1m",
            "lease_ttl": _text(self.ttl),
            "watch_for": _text(self.watch_for),
        }


@dataclass(frozen=True)
class GuardedInstallation:
    """``files``: place -> configuration. The home region's worker has no key that opens recovery points."""

    folder: Path
    times: FailoverTimes
    regions: list[str]
    files: dict[str, Path]

    def for_vantage(self, place: str) -> Path:
        """The configuration as a region, or "outside", sees the others. Raises KeyError."""
        return self.files[place]

    @property
    def config_file(self) -> Path:
        """The operator's, who is in no region."""
        return self.files[OUTSIDE]

    @property
    def vantage_points(self) -> list[str]:
        return [*self.regions, OUTSIDE]

    async def start(
        self, lab: Lab, services: Collection[str] = ATTENDANTS, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts guards, workers and monitors as the lab's servers and waits until all of them are ready.

        Guards come first: nothing is a primary before. A region's worker looks from there; where there is none, a
        monitor does, and a worker that takes workflows: a region that falls silent must not swallow them.
        """
        for wave in ((GUARD,), (WORKER, MONITOR)):
            wanted = [
                (place, service)
                for place in self.vantage_points
                for service in wave
                if service in services and (service == WORKER or (place in self.regions) is (service == GUARD))
            ]
            starting = (self.start_one(lab, *each, environment) for each in wanted)
            outcomes = await asyncio.gather(*starting, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    async def start_one(self, lab: Lab, place: str, service: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts (again) what attends to one place. Raises LabError with its log when it does not get ready."""
        state = self.folder / "guard" / place if service == GUARD else None
        await lab.attend(
            place, service, self.command(place, service), ready=READY[service], environment=environment, folder=state
        )

    def command(self, place: str, service: str) -> list[str]:
        """Arguments of the interpreter."""
        drctl = ["-m", "drctl", "--config", str(self.files[place]), service]
        match service:
            case "guard":
                return [*drctl, "--region", place]
            case "monitor":
                return [*drctl, "--vantage", place, "--metrics-port", "0"]
            case _:
                region = ["--region", place, "--no-control"] if place in self.regions else []
                return [*drctl, *region, "--metrics-port", "0"]


@dataclass(frozen=True)
class _Builder:
    lab: Lab
    folder: Path
    times: FailoverTimes
    secrets: Secrets
    keys: Keys
    token: str = field(default_factory=lambda: random_secrets.token_hex(24))

    def document(self, vantage: str, tier: str) -> dict[str, Any]:
        view = View(self.lab, vantage)
        document = base_document(view, self.secrets, self.keys, {GROUP: self._group(view, tier)})
        document["guards"] = {
            "token": self.secrets.write("guard.token", self.token),
            "state_folder": str(self.folder / "guard"),
            "margin": _text(self.times.margin),
        }
        for region, section in document["regions"].items():
            section["guard"] = view.of(self.lab.guard(region), region, GUARD)
        return document

    def _group(self, view: View, tier: str) -> dict[str, Any]:
        group = group_document(view, self.secrets, self.folder, tier)
        # Each region stands by under a name of its own: an archiver never passes for a member.
        member = self.lab.postgres(view.vantage if view.vantage in view.regions else view.regions[0])
        group["postgres"] |= {
            "replication_user": member.replication_user,
            "replication_password": self.secrets.write(
                f"{member.replication_user}.password", member.replication_password
            ),
        }
        group["replication"] = {
            "mode": "streaming",
            "synchronous": self.times.synchronous,
            "max_lag_seconds": round(self.times.lag_limit),
            "replicas": [
                {"region": region, "priority": 100 - 10 * number} for number, region in enumerate(view.regions)
            ],
        }
        group["failover"] = self.times.document([*view.regions, OUTSIDE])
        add_stores(view, self.secrets, group)
        for region, section in group["regions"].items():
            section["dns_value"] = self.lab.seen_from(CLIENTS, region, "postgres")[0]
        return group


def install_guarded(
    lab: Lab, folder: Path, times: FailoverTimes | None = None, *, tier: str = "critical"
) -> GuardedInstallation:
    """Writes keys, secrets (mode 600) and one configuration per vantage point into ``folder``.

    The lab must be a guarded one. Customers reach the stores through links of their own (place "clients"), so that a
    region can be lost to them by dropped packets, too.
    """
    times = times or FailoverTimes()
    writer = Secrets.below(folder)
    builder = _Builder(lab, folder, times, writer, Keys.write(writer))
    regions = lab.describe().regions
    for region in regions:
        state_folder = folder / "guard" / region
        state_folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        if "nats" in lab.describe().services:
            lend_fence(lab.jetstream(region), state_folder / f"nats-{GROUP}.conf")
    files = {}
    for place in (*regions, OUTSIDE):
        document = builder.document(place, tier)
        files[place] = folder / f"recovery-{place}.yaml"
        dump(without_identities(document) if place == regions[0] else document, files[place])
    return GuardedInstallation(folder, times, regions, files)


def _text(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"
