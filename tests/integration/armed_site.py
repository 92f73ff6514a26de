"""A guarded site whose guards and workers can be struck at a chosen moment; see ``armed_process``."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from drctl.demo.guarded import GuardedInstallation
from lab.state import MONITOR, Server
from tests.integration.armed_process import ARMED, HELD, STRUCK, Moment
from tests.integration.waiting import exists

if TYPE_CHECKING:
    from tests.integration.guarded_site import GuardedSite


@dataclass(frozen=True)
class ArmedInstallation(GuardedInstallation):
    """As the real one; guards and workers run in ``armed_process``."""

    @classmethod
    def of(cls, real: GuardedInstallation) -> ArmedInstallation:
        return cls(real.folder, real.times, real.regions, real.files)

    def control(self, place: str, service: str) -> Path:
        return self.folder / "control" / f"{place}-{service}"

    def disarm(self) -> None:
        """Nothing that a test left armed strikes a later one."""
        for control in (self.folder / "control").glob("*"):
            disarm(control)

    def command(self, place: str, service: str) -> list[str]:
        _, _, *drctl = super().command(place, service)
        if service == MONITOR:
            return ["-m", "drctl", *drctl]
        return ["-m", "tests.integration.armed_process", str(self.control(place, service)), *drctl]


@dataclass(frozen=True)
class Arms:
    """What a test arms at one process of a site."""

    site: GuardedSite
    place: str
    service: str

    @property
    def _control(self) -> Path:
        return self.site.installation.control(self.place, self.service)

    def arm(self, at: str, **moment: Any) -> None:
        """In place of what was armed before; a call that is held stays held."""
        for name in (ARMED, STRUCK):
            (self._control / name).unlink(missing_ok=True)
        armed = Moment.model_validate({"at": at, **moment})
        fresh = self._control / "armed.new"
        fresh.write_text(armed.model_dump_json())
        fresh.rename(self._control / ARMED)

    async def struck(self, seconds: float = 60.0) -> None:
        """Waits until the process came to that moment."""
        file = self._control / STRUCK
        await self.site.eventually(lambda: exists(file), seconds, f"{self.place}'s {self.service} never came there")

    def release(self) -> None:
        """Lets a held call go on."""
        (self._control / HELD).unlink()

    async def restart(self) -> None:
        await self.site.lab.restart(self.place, self.service)

    async def thaw(self) -> None:
        """Lets a process that froze itself go on."""
        name = f"{self.place}/{self.service}"
        await go_on([found for found in self.site.lab.describe().servers if found.name == name])


def disarm(control: Path) -> None:
    for name in (ARMED, STRUCK, HELD):
        (control / name).unlink(missing_ok=True)


async def go_on(servers: Sequence[Server]) -> None:
    """SIGCONT to what froze itself: the lab knows only of what it froze itself."""
    for server in servers:
        for pid in server.pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGCONT)
