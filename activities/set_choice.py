"""Which recovery set a recovery goes by, and what each store of the group comes back from.

PostgreSQL never goes back further than it must: to the end of its archived WAL, else to its newest validated point. The
other stores come back from the newest set all of whose points are validated. Only a set that an operator names brings
PostgreSQL back to the set's own moment, too.
"""

from __future__ import annotations

import asyncio

from recovery.domain.plan import PlanContext
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint
from recovery.domain.recovery_set import ChosenSet, RecoverySet, SetPart, SetState, member_of, state_of
from recovery.domain.words import listed, moment
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
        chosen = ChosenSet(
            set_id=found.set_id if found is not None else None,
            named=named is not None,
            parts=[_database(point), *(_part(self._context, store, found) for store in self._stores)],
        )
        if found is not None and not goes_on and point.point_id not in {each.point_id for each in found.members}:
            warnings.append(
                f"{point.point_id} is not of recovery set {found.set_id}, from which the other stores come back: name "
                f"the set with --set {found.set_id} to bring all of them back to its moment"
            )
        return chosen, [*warnings, *left_words(chosen)]


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
        if _is_early_enough(each, context, point) and state_of(each, known) is SetState.VALID:
            return each
    return None


def _is_early_enough(found: RecoverySet, context: PlanContext, point: RecoveryPoint) -> bool:
    """Whoever goes back to a moment wants nothing of what came after it, in no store."""
    target = context.request.target
    if target is not None and target.time is not None:
        return found.window[1] <= target.time
    goes_back = target is not None and not target.latest
    if goes_back or (target is None and context.request.point_id is not None):
        return found.window[0] <= member_of(point).finished_at
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


def _part(context: PlanContext, store: DataStore, found: RecoverySet | None) -> SetPart:
    if found is None:
        target = context.request.target
        until = f" and that ended by {moment(target.time)}" if target is not None and target.time is not None else ""
        return SetPart(
            store=store,
            left=f"there is no recovery set all of whose points are validated{until}. A single point of it is put back "
            f"with drctl restore --store {store}",
        )
    member = next((each for each in found.members if each.store == store), None)
    if member is None:
        return SetPart(store=store, left=f"recovery set {found.set_id} has no point of it")
    region = context.facts.target_region
    has_it = region is not None and context.group.region(region).has(store)
    return SetPart(
        store=store,
        point_id=member.point_id,
        began_at=member.began_at,
        finished_at=member.finished_at,
        left="" if has_it else f"{region} has no {store.key}",
    )
