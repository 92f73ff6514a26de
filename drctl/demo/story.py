"""``drctl demo``: a lab for each story, the story told on it, and a clean end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from drctl.demo import failover_story, recovery_story
from drctl.demo.outcome import Outcome
from drctl.demo.screen import Screen
from lab import Lab
from workers.worker import stop_on_signals


class Story(StrEnum):
    """What is told."""

    ALL = "all"  # both, one after the other
    RECOVERY = "recovery"  # from a recovery set, and a plan that fails and is undone
    FAILOVER = "failover"  # a standby takes over by itself, and the way home


class Tale(Protocol):
    """A module that tells a story."""

    NAME: str

    async def start_lab(self, screen: Screen) -> Lab: ...

    async def tell(
        self, lab: Lab, folder: Path, screen: Screen, report_file: Path, end: Callable[[Path, Outcome], Awaitable[None]]
    ) -> Outcome: ...


def report_files(story: Story, file: Path) -> dict[Story, Path]:
    """Where the report of each story that is told goes: of the second one beside ``file``."""
    if story is not Story.ALL:
        return {story: file}
    return {Story.RECOVERY: file, Story.FAILOVER: file.with_stem(f"{file.stem}-{Story.FAILOVER}")}


@dataclass(frozen=True)
class Stories:
    """Those that are told, in order, each on a lab of its own. With ``keep`` the last one's stays up at the end."""

    screen: Screen
    tales: list[tuple[Tale, Path]]
    keep: bool
    began: float

    async def tell(self) -> Outcome:
        """One that does not end as it should is the last."""
        found = Outcome.WELL
        for number, (tale, _) in enumerate(self.tales):
            found = await self._tell(number, tale)
            if found is not Outcome.WELL:
                break
        return found

    async def _tell(self, number: int, tale: Tale) -> Outcome:
        screen, began = self.screen, time.monotonic()
        if len(self.tales) > 1:
            screen.story(tale.NAME)
        screen.scene("Two regions", "Real servers start: PostgreSQL, NATS, Redis, S3, DNS, Temporal.")
        folder = await asyncio.to_thread(_folder)
        try:
            async with await tale.start_lab(screen) as lab:
                screen.note(f"{len(lab.describe().servers)} servers are ready after {time.monotonic() - began:.1f} s")
                screen.note(f"Temporal's own page: {lab.temporal().ui_address}")
                return await tale.tell(lab, folder, screen, self.tales[number][1], partial(self._end, number, lab))
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _end(self, number: int, lab: Lab, config_file: Path, found: Outcome) -> None:
        """What follows a story's last scene, with everything still up."""
        if found is Outcome.WELL and number + 1 < len(self.tales):
            return
        written = [file for _, file in self.tales[: number + 1]]
        self.screen.end(written, timedelta(seconds=time.monotonic() - self.began))
        if self.keep:
            self.screen.keep(lab.temporal().ui_address, config_file)
            await stop_on_signals().wait()


async def run_demo(console: Console, *, story: Story, keep: bool, report_file: Path) -> Outcome:
    """Tells the story, or all of them."""
    screen = Screen(console)
    screen.title()
    told: dict[Story, Tale] = {Story.RECOVERY: recovery_story, Story.FAILOVER: failover_story}
    tales = [(told[each], file) for each, file in report_files(story, report_file).items()]
    return await Stories(screen, tales, keep, time.monotonic()).tell()


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recovery-demo-"))
    folder.chmod(0o755)  # where we are root, PostgreSQL runs as another user and restores below this folder
    return folder
