"""Which recovery set a recovery goes by, and what each store of the group comes back from.

PostgreSQL never goes back further than it must: to the end of its archived WAL, else to its newest validated point. The
other stores come back from the newest set all of whose points are validated; a store of which that set has none (its
backup failed that night), from the newest validated point that it has. Only a set that an operator names brings
PostgreSQL back to the set's own moment, too, and nothing else than what is in it.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from recovery.domain.plan import PlanContext
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint
from recovery.domain.recovery_set import ChosenSet, RecoverySet, SetMember, SetPart, SetState, member_of, state_of
from recovery.domain.words import duration, listed, moment
from recovery.errors import BadInput, Corrupt, NotFound, Refused
from recovery.ports.recovery_points import ListedSets, RecoveryPoints

MOST_NAMED = 3  # sets in a sentence


class SetChoice:
    """Asks for sets and points beside whatever else the step asks for: a location that hangs costs its patience once.

    Where the plan takes a single point, and in a group of PostgreSQL alone, nothing is asked.
    """

    def __init__(self, points: RecoveryPoints, context: PlanContext) -> None:
        self._points = points
        self._context = context
        self._stores: list[DataStore] = [
            store
            for store in DataStore
            if store is not DataStore.POSTGRES and any(region.has(store) for region in context.group.regions)
        ]
        self._asked: asyncio.Future[tuple[list[RecoveryPoint], ListedSets]] | None = None
        self.beside = ""  # what comes back beside PostgreSQL, as the step's summary says it

    async def __aenter__(self) -> SetChoice:
        if self._context.plan != "Restore" and self._stores:
            group = self._context.group
            self._asked = asyncio.gather(self._points.points(group), self._points.sets(group))
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)

    async def named(self) -> RecoverySet | None:
        """The set that was asked for, its signature verified; None where none was.

        Raises:
            BadInput: the plan takes a single point, or the group has one store. NotFound: there is no such set.
            Corrupt: it is not believed.
        """
        wanted = self._context.request.set_id
        if wanted is None:
            return None
        if self._context.plan == "Restore":
            raise BadInput("a restore takes one recovery point: a whole set comes back by drctl recover --set")
        if self._context.request.point_id is not None:
            raise BadInput("expected a recovery set or a recovery point, and not both")
        if self._asked is None:
            raise BadInput(f"group {self._context.group.name} has one store, and so no recovery sets")
        _, found = await self._asked
        return _of_name(wanted, found, self._context.group.name)

    async def stores(
        self, point: RecoveryPoint, named: RecoverySet | None, *, goes_on: bool
    ) -> tuple[ChosenSet | None, list[str]]:
        """What every store of the group comes back from, PostgreSQL from ``point``; and what people have to know of it.

        None where there is nothing but PostgreSQL to recover.

        Args:
            goes_on: PostgreSQL goes on with archived WAL after ``point``.

        Raises:
            NotFound, Corrupt: a point of the named set is gone, or is not the one that was signed. Unreachable.
        """
        if self._asked is None:
            return None, []
        known, sets = await self._asked
        found = named
        if found is not None:
            warnings = _unproven(found, known, self._stores)
        else:
            found = _newest(sets, known, self._context, point)
            warnings = [f"a recovery set is not believed: {reason}" for reason in sets.rejected.values()]
        alone = {} if found is None or named is not None else self._alone(found, known, point)
        chosen = ChosenSet(
            set_id=found.set_id if found is not None else None,
            named=named is not None,
            parts=[
                _database(point),
                *(_part(self._context, store, found, alone.get(store)) for store in self._stores),
            ],
        )
        self.beside = _beside(chosen, found)
        if found is not None and not goes_on and point.point_id not in {each.point_id for each in found.members}:
            warnings.append(
                f"{point.point_id} is not of recovery set {found.set_id}, from which the other stores come back: name "
                f"the set with --set {found.set_id} to bring all of them back to its moment"
            )
        if found is not None:
            warnings += [_alone_words(part, found) for part in chosen.further if part.store in alone]
        return chosen, [*warnings, *left_words(chosen)]

    def _alone(
        self, found: RecoverySet, known: list[RecoveryPoint], point: RecoveryPoint
    ) -> dict[DataStore, SetMember]:
        """The newest validated point of each store that the set lacks, where one is early enough."""
        return {
            store: newest
            for store in self._stores
            if store not in found.stores and (newest := _newest_point(store, known, self._context, point)) is not None
        }


def database_point(found: RecoverySet, kind: BackupKind) -> str:
    """The set's point of PostgreSQL, of the kind that the target takes. Raises Refused: it has none."""
    kinds = [each.kind.value for each in found.members if each.store == DataStore.POSTGRES]
    point = next((each.point_id for each in found.members if each.kind is kind), None)
    if point is None:
        raise Refused(
            f"recovery set {found.set_id} has no {kind} point of PostgreSQL, which this target takes (it has "
            f"{listed(kinds) or 'none'}): name another set, or put its points back one by one with drctl restore"
        )
    return point


def left_words(chosen: ChosenSet) -> list[str]:
    """One sentence for each store that is not restored."""
    return [f"{part.store} is not restored: {part.left}" for part in chosen.parts if part.left]


def _of_name(wanted: str, found: ListedSets, group: str) -> RecoverySet:
    for each in found.sets:
        if each.set_id == wanted:
            return each
    for key, reason in found.rejected.items():
        if key.endswith(f"/{wanted}.json"):
            raise Corrupt(f"recovery set {wanted} is not believed: {reason}")
    known = ", ".join(each.set_id for each in found.sets[:MOST_NAMED]) or "none"
    silent = "".join(f"; {name} did not answer: {reason}" for name, reason in found.unreachable.items())
    raise NotFound(f"group {group} has no recovery set {wanted}: the newest are {known}{silent}")


def _newest(
    found: ListedSets, known: list[RecoveryPoint], context: PlanContext, point: RecoveryPoint
) -> RecoverySet | None:
    for each in found.sets:
        if _is_early_enough(each.window, context, point) and state_of(each, known) is SetState.VALID:
            return each
    return None


def _newest_point(
    store: DataStore, known: list[RecoveryPoint], context: PlanContext, point: RecoveryPoint
) -> SetMember | None:
    proven = [member_of(each) for each in known if each.manifest.store == store and each.is_valid]
    early = [each for each in proven if _is_early_enough((each.began_at, each.finished_at), context, point)]
    return max(early, key=lambda each: (each.finished_at, each.point_id), default=None)


def _is_early_enough(window: tuple[datetime, datetime], context: PlanContext, point: RecoveryPoint) -> bool:
    """Whoever goes back to a moment wants nothing of what came after it, in no store."""
    began, finished = window
    target = context.request.target
    if target is not None and target.time is not None:
        return finished <= target.time
    goes_back = target is not None and not target.latest
    if goes_back or (target is None and context.request.point_id is not None):
        return began <= member_of(point).finished_at
    return True


def _unproven(found: RecoverySet, known: list[RecoveryPoint], stores: list[DataStore]) -> list[str]:
    by_id = {point.point_id: point for point in known}
    warnings = []
    for member in found.members:
        if member.store not in stores:
            continue
        point = by_id.get(member.point_id)
        if point is None:
            raise NotFound(f"{member.point_id} of recovery set {found.set_id} is at no location that answers")
        if point.manifest_sha256 != member.manifest_sha256:
            raise Corrupt(f"{member.point_id} is not the point that recovery set {found.set_id} was signed with")
        if not point.is_valid:
            state = point.verdict.state if point.verdict else "never validated"
            warnings.append(f"{point.point_id} is of the set that was named and is {state}")
    return warnings


def _database(point: RecoveryPoint) -> SetPart:
    member = member_of(point)
    return SetPart(
        store=DataStore.POSTGRES,
        point_id=point.point_id,
        began_at=member.began_at,
        finished_at=member.finished_at,
    )


def _alone_words(part: SetPart, found: RecoverySet) -> str:
    """Of a store that comes back from a point of its own."""
    assert part.began_at is not None and part.finished_at is not None
    began, finished = found.window
    apart = ""
    if part.finished_at < began:
        apart = f", {duration(began - part.finished_at)} before what is in the set"
    elif part.began_at > finished:
        apart = f", {duration(part.began_at - finished)} after what is in the set"
    return (
        f"{part.store} comes back from {part.point_id}, as recovery set {found.set_id} has no point of it: it stands "
        f"at {moment(part.finished_at)}{apart}"
    )


def _beside(chosen: ChosenSet, found: RecoverySet | None) -> str:
    members = {each.point_id for each in found.members} if found is not None else set()
    of_the_set = [part.store.value for part in chosen.further if part.point_id in members]
    said = [f"{listed(of_the_set)} of {chosen.set_id}"] if of_the_set else []
    said += [f"{part.store} of {part.point_id}" for part in chosen.further if part.point_id not in members]
    return f"; beside it {listed(said)}" if said else ""


def _part(context: PlanContext, store: DataStore, found: RecoverySet | None, alone: SetMember | None) -> SetPart:
    """``alone``: the store's own point, where the set has none of it."""
    if found is None:
        target = context.request.target
        until = f" and that ended by {moment(target.time)}" if target is not None and target.time is not None else ""
        return SetPart(
            store=store,
            left=f"there is no recovery set all of whose points are validated{until}. A single point of it is put back "
            f"with drctl restore --store {store}",
        )
    member = next((each for each in found.members if each.store == store), alone)
    if member is None:
        others = "" if context.request.set_id is not None else ", and no other one is validated"
        if others and (context.request.target is not None or context.request.point_id is not None):
            others += " and early enough"
        return SetPart(store=store, left=f"recovery set {found.set_id} has no point of it{others}")
    region = context.facts.target_region
    has_it = region is not None and context.group.region(region).has(store)
    return SetPart(
        store=store,
        point_id=member.point_id,
        began_at=member.began_at,
        finished_at=member.finished_at,
        left="" if has_it else f"{region} has no {store.key}",
    )
