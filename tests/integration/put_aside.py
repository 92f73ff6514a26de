"""What guards of tests put aside is sealed for a key that is at hand here."""

from __future__ import annotations

from pathlib import Path

from recovery.adapters.diverged_folder import open_diverged, runs_below
from recovery.backup.sealing import Opener, generate_age_key

KEY = generate_age_key()
RECIPIENTS = [KEY.public]


async def the_one_below(folder: Path, into: Path) -> Path:
    """Opens the one file of the one return that left something below ``folder``."""
    (run,) = runs_below(folder)
    async with Opener([KEY.secret], threads=1) as opener:
        (opened,) = await open_diverged(run, opener, into)
    return opened
