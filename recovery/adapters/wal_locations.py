"""Which locations a session of the WAL archive waits for, and how those that it does not wait for are completed.

A server must not wait for the location of a region that is lost, nor for one that refuses: its disk would fill, and
what it writes would be archived nowhere. So a session begins with the locations that answer and take what they lack.
The others are filled as soon as they do, and then waited for again, from the next session on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog

from recovery.backup.signing import Verifier
from recovery.backup.wal.filling import fill_archive
from recovery.backup.wal.reader import ArchivedTimeline, WalArchive, archived_servers
from recovery.domain.wal_archive import Branch, WalRange, merged
from recovery.domain.words import size
from recovery.errors import NoSpace, NotFound, NotOurs, RecoveryError, Refused, Unreachable
from recovery.ports.object_store import ObjectStore

ANSWER_SECONDS = 10.0
LIST_SECONDS = 15.0  # without a name of the pieces
FILLED_AT_ONCE = 64 << 20  # bytes that a location may lack to be filled before a session begins
FILL_SECONDS = 60.0  # for that
LOOK_AGAIN_SECONDS = 15.0
OPTIONAL_SECONDS = 60.0  # between two fills of a location that nobody waits for
NEARLY = 8  # pieces: a fill that copied no more has caught up
AWAY = (Unreachable, Refused, NotFound, NoSpace, TimeoutError)
"""What a location says that cannot be waited for. NotOurs is no such word: it is about what the location holds."""

log = structlog.get_logger("recovery.wal")


@dataclass(frozen=True)
class Standing:
    """``waited``: the locations that must have the WAL; ``away``: those that cannot now, with the reason."""

    waited: list[ObjectStore]
    away: dict[str, str]


@dataclass(frozen=True)
class ArchiveLocations:
    """The required locations of one server's archive."""

    stores: Sequence[ObjectStore]
    group: str
    system_identifier: str
    verifier: Verifier

    async def standing(self) -> Standing:
        """Looks at all of them at once, and fills those that lack a little.

        Raises:
            Unreachable: none answers. Corrupt, WrongKey, NotOurs: what one holds cannot be believed.
        """
        away: dict[str, str] = {}

        async def look(store: ObjectStore) -> tuple[ObjectStore, list[ArchivedTimeline]] | None:
            archive = WalArchive(store, self.group, self.system_identifier, self.verifier)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await archived_servers(store, self.group)
                return store, await archive.timelines(silence=LIST_SECONDS)
            except AWAY as error:
                away[store.name] = str(error) or "it did not answer in time"
                return None

        found = [each for each in await asyncio.gather(*map(look, self.stores)) if each is not None]
        if not found:
            raise Unreachable(f"no location of the WAL archive answers: {'; '.join(away.values())}")
        lacking = await asyncio.to_thread(_lacking, found)
        best = min((store for store, _ in found), key=lambda store: lacking[store.name])
        waited = [best]
        for store, _ in found:
            if store is best:
                continue
            why = await self._complete(best, store, lacking[store.name])
            if why:
                away[store.name] = why
            else:
                waited.append(store)
        return Standing(waited, away)

    async def _complete(self, best: ObjectStore, store: ObjectStore, lacking: _Lack) -> str:
        """Fills a location that lacks a little; why it cannot be waited for, empty when it can."""
        if lacking.wal > FILLED_AT_ONCE:
            return f"it lacks {size(lacking.wal)} of WAL, which is copied to it"
        if lacking > _Lack():
            try:
                async with asyncio.timeout(FILL_SECONDS):
                    await fill_archive(best, store, self.group, self.system_identifier, self.verifier)
            except NotOurs:
                raise
            except AWAY as error:
                return str(error) or f"it could not be filled within {FILL_SECONDS:g} s"
        return ""

    async def returned(self, standing: Standing) -> str:
        """Fills those that are away as soon as they answer; returns the name of the first that is complete again."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            for store in (each for each in self.stores if each.name in standing.away):
                try:
                    copied = await fill_archive(
                        standing.waited[0], store, self.group, self.system_identifier, self.verifier
                    )
                except RecoveryError as error:
                    log.info("a location of the WAL archive is still away", location=store.name, why=str(error))
                    continue
                if copied <= NEARLY:
                    return store.name


class OptionalLocations:
    """Those that no session waits for: what they miss is copied to them while one runs."""

    def __init__(self, stores: Sequence[ObjectStore], locations: ArchiveLocations) -> None:
        self._stores, self._locations = stores, locations
        self._behind: dict[str, str] = {}
        self._unfilled = {store.name: "its first copy is not complete yet" for store in stores}
        self._seen: dict[str, str] = {}  # by location: what was known to be missing in the last round
        self._filled: dict[str, str] = {}  # by location: what was known to be missing, and is surely copied

    def behind(self, told: Mapping[str, str]) -> dict[str, str]:
        """What a session says of the locations, without what was copied since, and what no fill has completed yet."""
        self._behind = dict(told)
        return {**self._unfilled, **{name: why for name, why in told.items() if self._filled.get(name) != why}}

    async def keep_filled(self, source: ObjectStore) -> NoReturn:
        """Fills them at first, and again whenever they missed something."""
        where = self._locations
        while True:
            for store in self._stores:
                missing = self._behind.get(store.name, "")
                if self._filled.get(store.name) == missing and store.name not in self._unfilled:
                    continue
                # It may be told before the source has it: only what was known a round ago is surely copied.
                settled = self._seen.get(store.name, "") == missing
                self._seen[store.name] = missing
                try:
                    await fill_archive(source, store, where.group, where.system_identifier, where.verifier)
                except RecoveryError as error:
                    log.warning("an optional location could not be filled", location=store.name, why=str(error))
                    self._unfilled[store.name] = f"it could not be filled: {error}"
                else:
                    self._unfilled.pop(store.name, None)
                    if settled:
                        self._filled[store.name] = missing
            await asyncio.sleep(OPTIONAL_SECONDS)


@dataclass(frozen=True, order=True)
class _Lack:
    """What a location has not that another one has: bytes of WAL, and histories of timelines."""

    wal: int = 0
    histories: int = 0


def _lacking(found: Sequence[tuple[ObjectStore, Sequence[ArchivedTimeline]]]) -> dict[str, _Lack]:
    """By location. Of a long archive it takes seconds."""
    whole = [timeline for _, timelines in found for timeline in timelines]
    held, branches = _held(whole), {each.branch for each in whole}
    return {store.name: _Lack(held - _held(timelines), len(branches) - len(timelines)) for store, timelines in found}


def _held(timelines: Iterable[ArchivedTimeline]) -> int:
    """Bytes of all timelines, each position once."""
    ranges: dict[Branch, list[WalRange]] = {}
    for timeline in timelines:
        ranges.setdefault(timeline.branch, []).extend(piece.range for piece in timeline.pieces)
    return sum(each.size for pieces in ranges.values() for each in merged(pieces))
