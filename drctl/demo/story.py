"""``drctl demo``: a lab, a story told on it, and a clean end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from rich.console import Console

from drctl.demo import failover_story, recovery_story
from drctl.demo.outcome import Outcome
from drctl.demo.screen import Screen
from workers.worker import stop_on_signals


class Story(StrEnum):
    """What is told."""

    FAILOVER = "failover"  # a standby takes over by itself, and the way home
    RECOVERY = "recovery"  # from a recovery point, and a plan that fails and is undone


async def run_demo(console: Console, *, story: Story, keep: bool, report_file: Path) -> Outcome:
    """Tells the story."""
    screen = Screen(console)
    told = failover_story if story is Story.FAILOVER else recovery_story
    screen.title()
    began = time.monotonic()
    screen.scene("Two regions", "Real servers start: PostgreSQL, NATS, Redis, S3, DNS, Temporal.")
    lab = await told.start_lab(screen)
    screen.note(f"{len(lab.describe().servers)} servers are ready after {time.monotonic() - began:.1f} s")
    screen.note(f"Temporal's own page: {lab.temporal().ui_address}")
    folder = await asyncio.to_thread(_folder)

    async def end(config_file: Path) -> None:
        screen.end(report_file, timedelta(seconds=time.monotonic() - began))
        if keep:
            screen.keep(lab.temporal().ui_address, config_file)
            await stop_on_signals().wait()

    try:
        found: Outcome = await told.tell(lab, folder, screen, report_file, end)
        return found
    finally:
        await lab.stop()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recovery-demo-"))
    folder.chmod(0o755)  # where we are root, PostgreSQL runs as another user and restores below this folder
    return folder
