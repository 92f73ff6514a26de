"""Guards: who makes a primary, and what they need of a store to do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from recovery.domain.guarding import GuardOrder, GuardStatus, Promotion, Stopped, StoreState
from recovery.domain.ownership import AcknowledgingSet, Demotion, FenceProof, OwnershipRecord, Strength


class Guards(Protocol):
    """The guards of all regions, as plans ask them. Every order is idempotent and keyed by run and epoch.

    All methods raise ``Unreachable`` when the guard does not answer, ``Refused`` with the reason when a rule forbids
    the order (the group is not this run's, the epoch moved on, no proof), ``NotFound`` when the region has no guard.
    """

    async def status(self, region: str, group: str | None = None) -> GuardStatus: ...

    async def fence(self, order: GuardOrder) -> FenceProof:
        """Asks the *target's* guard to make sure that the source has no primary. Answers when it is proven.

        It writes the request into the record, then waits for whatever comes first: the source's guard confirms its
        demotion, or the source's lease did not change for ttl and margin and is broken.
        """
        ...

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        """Takes the request back: the source's guard may make its stores primary again. Refused after the pivot."""
        ...

    async def promote(self, order: GuardOrder) -> Promotion:
        """Asks the target's guard to make ``order.store`` primary, with the next epoch for the first of the group."""
        ...

    async def follow(self, region: str, order: GuardOrder) -> StoreState:
        """Asks a region's guard to let ``order.store`` follow the owner: starts it, or re-points it."""
        ...


@dataclass(frozen=True)
class Emergency:
    """What the companion needs to demote a store without the guard: plain data, written to a file beforehand.

    ``kind`` is one that the companion knows; ``detail`` is JSON.
    """

    store: str
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Upstream:
    """Where a store follows: the owner's address as this region sees it."""

    region: str
    host: str
    port: int


class GuardedStore(Protocol):
    """One store of one group in the guard's own region. Everything is idempotent and bounded in time.

    At rest a guarded store is no primary: whatever starts it (a service manager, a reboot) gets a standby, or one that
    refuses writes. Only ``promote`` makes it a primary, and what it writes down does not survive a restart.
    """

    store: str
    strength: Strength

    async def observe(self) -> StoreState:
        """Its state now, within 2 s. Raises nothing but bugs: what does not answer is UNREACHABLE."""
        ...

    def emergency(self) -> Emergency:
        """What ends its writes without us."""
        ...

    async def secure(self) -> None:
        """Makes sure that its next start is no primary's (PostgreSQL: standby.signal), whatever it is now."""
        ...

    async def start(self, *, owner: bool = False) -> None:
        """Starts it at rest, where nothing else does. Not a stale one: that waits for ``Reprotect``.

        ``owner``: its region still owns the group (it crashed, or the host was restarted), so what ended as a primary
        is not stale.
        """
        ...

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        """Makes it accept writes. The caller holds a lease that outlasts this, and its companion is armed.

        ``owner``: as for ``start``.
        """
        ...

    async def demote(self) -> str | None:
        """Ends its writes within 1 s whatever state it is in, and confirms. Returns its position where it is known."""
        ...

    async def end_in_order(self, seconds: float) -> str:
        """The planned end: everything acknowledged is with the standbys. Returns its final position.

        Raises:
            Unreachable: it did not end in that time; it is as it was, or demoted.
        """
        ...

    async def stop_receiving(self) -> str:
        """Confirms that it takes nothing more from the old primary, which so gets no acknowledgement; its position."""
        ...

    async def follow(self, upstream: Upstream) -> StoreState:
        """Follows the owner: started, or re-pointed. Refused when its data are not an ancestor of the owner's."""
        ...


@runtime_checkable
class Tended(Protocol):
    """A guarded store with work of its own between orders; PostgreSQL has none, Redis and JetStream have."""

    async def tend(self, upstream: Upstream | None = None) -> None:
        """Its guard calls this again and again, a quarter of a second after the last call came back, at any role.

        ``upstream``: the owner's store, while another region owns the group and no plan is fencing it: a clean store
        at rest (fresh, or restarted) follows it by itself; one that was a primary waits for ``follow``.

        Bounded by 10 s. Redis: whether the link to the primary may be built again (an empty primary empties its
        replicas). JetStream: how far the consumers of the primary are. Never makes a primary.
        """
        ...


@runtime_checkable
class Catching(Protocol):
    """A guarded store that can tell whether it has everything up to the old primary's final position."""

    async def wait_for(self, position: str, seconds: float) -> str:
        """Waits until everything up to ``position`` is here; returns its own position, which is at least that.

        Raises:
            Unreachable: it is not here after ``seconds``; the message says how far it came.
        """
        ...


@runtime_checkable
class Forgettable(Protocol):
    """A guarded store that goes on following whom it was told to follow last, and can tell whether that is past."""

    def is_left_behind(self, upstream: Upstream) -> bool:
        """Whether it is a standby that receives nothing and is set to follow another server than this, by the last
        ``observe``: the group changed its owner while nobody could tell it.
        """
        ...

    async def follow(self, upstream: Upstream) -> StoreState:
        """See ``GuardedStore``."""
        ...


@runtime_checkable
class BoundPromotion(Protocol):
    """A store that binds its promotion to the very server process that ran when permission was given.

    Between a guard's check and its act any time may pass. The companion kills the server at the deadline; an act over
    a connection that was opened before the check then finds nothing, whatever server runs by then.
    """

    async def promote_if(self, epoch: int, permitted: Callable[[], str | None], *, owner: bool = False) -> Promotion:
        """As ``GuardedStore.promote``; ``permitted`` is asked after the connection is there, right before the act.

        Raises:
            Contended: with the reason that ``permitted`` gave. Refused: it must not become primary at all.
        """
        ...


@dataclass(frozen=True)
class GuardedGroup:
    """What one guard guards of one group."""

    name: str
    home_region: str
    stores: Sequence[GuardedStore]
    upstreams: dict[str, dict[str, Upstream]] = field(default_factory=dict)  # store -> owner's region -> address
    peers: tuple[str, ...] = ()  # regions that could become primary: their promise counts when the witness is silent
    state_folder: Path | None = None
    acknowledging: AcknowledgingSet | None = None  # the standbys that commits are to wait for; None: for nobody
    on_standby_loss: str = "wait"  # or weaken


class PeerGuards(Protocol):
    """What guards say to each other without the witness."""

    async def promise(self, region: str, group: str, epoch: int, holder: str, ttl: float) -> bool:
        """Asks a region's guard not to break ``holder``'s lease for ``ttl`` seconds from when it answers.

        Raises:
            Unreachable: no answer; nothing was promised as far as we know.
        """
        ...

    async def stop_receiving(self, region: str, order: GuardOrder) -> Stopped:
        """Asks a region's guard to let its standby take nothing more from ``order.source``: see ``Stopped``.

        Raises:
            Refused: the record does not carry the order's request, or the region has no standby that acknowledges.
            Unreachable: no answer, or the standby did not confirm it. It may have stopped.
        """
        ...

    async def nudge(self, region: str, group: str) -> None:
        """Tells a region's guard that the group's record has changed: it reads it at once. A courtesy that saves time.

        Raises:
            Unreachable: no answer; it reads the record at its next renewal.
        """
        ...


__all__ = [
    "Catching",
    "Demotion",
    "Emergency",
    "Forgettable",
    "GuardedGroup",
    "GuardedStore",
    "Guards",
    "PeerGuards",
    "Tended",
    "Upstream",
]
