"""How one group stands in its guard's region: what was read, what is armed, and whether it may be primary now."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from recovery.domain.guarding import GroupState, StoreRole, StoreState
from recovery.domain.ownership import Strength
from recovery.guard import decisions
from recovery.guard.acknowledging import Acknowledged
from recovery.guard.clock import boottime
from recovery.guard.deadlines import CompanionProcess, Deadlines
from recovery.guard.holding import Holding
from recovery.guard.promises import Given, Received
from recovery.guard.record import Record
from recovery.guard.stores import Stores
from recovery.ports.guard import GuardedGroup, Upstream
from recovery.ports.ownership import OwnershipStore

log = structlog.get_logger("recovery.guard")

RESTORING = frozenset({"FullRecovery", "Restore"})
"""Plans that put a restored server in place, and open it themselves when it is complete."""


@dataclass
class Guarding:
    """What all groups of one guard share. ``given``: what this guard promised to the others."""

    region: str
    holding: Holding
    deadlines: Deadlines
    companion: CompanionProcess
    records: OwnershipStore
    given: Given
    observe_every: float
    clock: Callable[[], float] = field(default=boottime)


class Standing:
    """One group here. What changes it belongs to ``Serving``, ``Resting`` and ``GuardedHere``.

    Args:
        inherited: deadline that an earlier guard process of this boot left for this group, whose stores may be primary
            until then without us; None: nothing was armed.
    """

    def __init__(self, group: GuardedGroup, shared: Guarding, inherited: float | None = None) -> None:
        self.group = group
        self.name = group.name
        self.shared = shared
        self.inherited = inherited
        self.record = Record(group.name, shared.records, shared.clock)
        self.record.changed = self._learned
        self.stores = Stores(group.name, group.stores)
        self.received: Received | None = None
        self.taking_over_since = math.inf  # inf: no
        self.armed = inherited is not None
        """Whether a store may be primary: then every reason against it demotes at once."""
        self.anew = False
        """It was demoted since this guard took it: it becomes primary again by adoption alone."""
        self.demoting = 0  # demotions under way
        self.stopping = False
        self.demoted_epoch: int | None = None
        self.positions: dict[str, str] = {}
        """Where the stores ended when they were demoted last."""
        self.warnings: dict[str, str] = {}
        self.next_work = -math.inf
        self.woken = asyncio.Event()

    @property
    def strengths(self) -> dict[str, Strength]:
        """What keeps each store of the group here from being a second primary, as far as it is known now."""
        return {name: store.strength for name, store in self.stores.all.items()}

    def against(self) -> str | None:
        """Why the group must not be primary here now; None: it may."""
        return decisions.must_demote(
            self.record.record,
            self.shared.region,
            self.shared.holding.held,
            self.shared.clock(),
            read_began=self.record.began,
            received=self.received,
        )

    def against_promotion(self) -> str | None:
        """Why nothing of the group must be made primary here now; None: it may.

        A promotion that was held up since it was armed may come when all was demoted meanwhile and the lease holds
        again: the companion was told that there is nothing to end.
        """
        if self.stopping:
            return "this guard is being stopped"
        if self.demoting:
            return "it is being demoted"
        if self.anew:
            return "it was demoted since this guard took it: it is adopted first"
        return self.against()

    @contextlib.contextmanager
    def demotion(self) -> Iterator[None]:
        """While it lasts nothing of the group is made primary."""
        self.demoting += 1
        try:
            yield
        finally:
            self.demoting -= 1

    def deadline(self) -> float:
        """When the group has to be demoted unless something comes first (CLOCK_BOOTTIME)."""
        held, record = self.shared.holding.held, self.record.record
        received = self.received
        if received is not None and record is not None and received.instance == held.instance:
            return received.deadline(held) if received.epoch == record.epoch else held.deadline
        return held.deadline if held.lost is None else -math.inf

    @property
    def by_promise(self) -> bool:
        return self.armed and self.against() is None and not self.shared.holding.valid()

    @property
    def taking_over(self) -> bool:
        return self.taking_over_since < math.inf

    @property
    def is_restored(self) -> bool:
        """A plan puts a restored server in place, and says itself when it is to be opened."""
        record = self.record.record
        return record is not None and record.run is not None and record.plan in RESTORING

    def upstream_of(self, store: str) -> Upstream | None:
        """Where a store at rest follows between orders: the owner, and nobody while a plan fences it."""
        record = self.record.record
        if record is None or record.region == self.shared.region or record.fencing is not None:
            return None
        return self.group.upstreams.get(store, {}).get(record.region)

    def wake(self) -> None:
        """Something changed: look at once."""
        self.next_work = -math.inf
        self.woken.set()

    def _learned(self) -> None:
        record = self.record.record
        if self.record.began > self.taking_over_since and (record is None or record.fencing is None):
            self.taking_over_since = math.inf
        self.wake()

    def warn(self, key: str, text: str) -> None:
        """Shown with the group until the key is taken out of ``warnings``; said once."""
        if self.warnings.get(key) != text:
            log.warning("a group is not as it should be", group=self.name, reason=text)
        self.warnings[key] = text

    def settle(self, epoch: int | None) -> None:
        """Everything of the group was demoted, confirmed: the companion has nothing to end any more."""
        self.armed = False
        self.inherited = None
        self.received = None
        self.demoted_epoch = epoch
        self.anew = True
        self.shared.deadlines.disarm(self.name)
        self.wake()

    def state(self) -> GroupState:
        """As last read and observed, with the strength that the record claims where it claims one."""
        record = self.record.record
        claimed = record is not None and record.acknowledging is not None
        states = [self.stores.states.get(name) or _unknown(name) for name in self.stores.all]
        states = [
            state.model_copy(update={"strength": Strength.SYNCHRONOUS})
            if claimed and state.strength is not Strength.MANUAL and isinstance(self.stores[state.store], Acknowledged)
            else state
            for state in states
        ]
        return GroupState(
            group=self.name,
            epoch=record.epoch if record else None,
            owner=record.region if record else None,
            stores=states,
            warnings=list(self.warnings.values()),
        )


def _unknown(name: str) -> StoreState:
    return StoreState(store=name, role=StoreRole.UNREACHABLE, detail="not observed yet")
