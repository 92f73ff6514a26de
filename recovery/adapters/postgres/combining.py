"""A full base backup and its incremental ones become one data directory: ``pg_combinebackup`` (version 17 and later).

It copies damaged files as they are, and ``pg_verifybackup`` then finds its result in order: what is given to it must
have been read through checked objects.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.folder import give_to, no_space
from recovery.adapters.process import clean_environment, run
from recovery.errors import Corrupt, NoSpace

CHAIN = "recovery-plans.chain"
"""Folder within the data directory, and so on its disk, for the members until they are combined."""
SECONDS = 6 * 3600.0

_LINK_MAJOR = 18  # the members go away afterwards: a file that is wholly in one of them need not be copied


def make_member(folder: Path, name: str, user: str | None) -> Path:
    """An empty folder for one member of the chain. Raises NoSpace, Refused."""
    chain = folder / CHAIN
    with no_space(folder):
        for path in (chain, chain / name):
            path.mkdir(mode=0o700, exist_ok=True)
            give_to(path, user)
    return chain / name


async def combine(
    binaries: PostgresBinaries, major: int, folder: Path, members: Sequence[Path], user: str | None
) -> None:
    """Puts the combined files into ``folder`` and removes the members (:func:`make_member`'s), the full one first.

    Raises:
        Corrupt: they do not belong together, in the tool's words.
        NoSpace, NotFound: the disk is full; the tool is missing.
    """
    tool = await binaries.tool(major, "pg_combinebackup")
    whole = folder / CHAIN / "whole"
    arguments: list[str | Path] = [tool, "--no-sync", f"--output={whole}"]
    arguments += [*(["--link"] if major >= _LINK_MAJOR else []), *members]
    done = await run(arguments, run_as=user, environment=clean_environment(), timeout=SECONDS)
    if done.code != 0:
        words = "; ".join(line.removeprefix("pg_combinebackup: ") for line in done.stderr.splitlines()[:5])
        if "No space left on device" in done.stderr or "Disk quota exceeded" in done.stderr:
            raise NoSpace(f"the disk of {folder} became full while the backups were combined")
        raise Corrupt(f"pg_combinebackup cannot combine the chain: {words or f'exit code {done.code}'}")


def take_over(folder: Path) -> None:
    """Moves what was combined to its place, and removes the rest. Blocks."""
    with no_space(folder):
        for entry in (folder / CHAIN / "whole").iterdir():
            entry.rename(folder / entry.name)
        shutil.rmtree(folder / CHAIN)
