"""The rules of guards as the model asks them: one method for each place where a mutant breaks one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.guard import decisions, lease, promises
from recovery.guard.decisions import Refusal, Settled, Wait, Write
from recovery.guard.lease import Found, Held, Watched
from recovery.guard.promises import Given, Received

GROUP = "shop"
AT = datetime(2026, 1, 1, tzinfo=UTC)  # for people alone; constant, so that no decision can rest on it
RECORD = "record"


class Violation(AssertionError):
    """Two stores accept writes at one instant, or accept them longer after a thaw than they may."""


class Rules:
    """The real rules, one method for each place where a mutant breaks one."""

    def take(self, region: str, name: str, ttl: float, found: Found) -> Held:
        return Held.take(region, name, ttl, found)

    def may_take(self, found: Found, own: Watched, now: float, margin: float, dead: tuple[str, ...]) -> bool:
        return lease.may_take(found, own, now, margin, dead) is None

    def confirmed(self, held: Held, serial: int, version: str, now: float) -> Held:
        return held.confirmed(serial, version, now)

    def seen(self, held: Held, found: Found, now: float) -> Held:
        return held.seen(found, now)

    def renewal(self, held: Held, now: float) -> tuple[Held, RegionLease]:
        return held.renewal(now, AT)

    def read(self, watched: Watched, found: Found, began: float, returned: float) -> Watched:
        return watched.read(found, began=began, returned=returned)

    def break_version(self, watched: Watched) -> str | None:
        return watched.version

    def given(self, started: float, longest: float, margin: float) -> Given:
        return Given(started, longest, margin)

    def may_promise(self, given: Given, **about: Any) -> bool:
        return promises.may_promise(given, **about) is None

    def promised(self, received: Received, peer: str, **about: Any) -> Received:
        return received.promised(peer, **about)

    def may_be_primary(self, record: OwnershipRecord | None, region: str, held: Held, now: float, **about: Any) -> bool:
        return decisions.may_be_primary(record, region, held, now, **about)

    def fence_step(self, record: OwnershipRecord, order: GuardOrder, region: str, **about: Any) -> decisions.FenceStep:
        return decisions.fence_step(record, order, region, **about)

    def promotion(
        self, record: OwnershipRecord, order: GuardOrder, region: str, held: Held, now: float, given: Given
    ) -> Write | Settled | Wait | Refusal:
        return decisions.promotion(record, order, region, held, now, given, AT)

    def adoption(
        self, record: OwnershipRecord, region: str, held: Held, now: float, given: Given, anew: bool
    ) -> Write | Settled | Wait | Refusal:
        return decisions.adoption(record, region, held, now, given, AT, anew=anew)

    def demotes_before_it_confirms(self) -> bool:
        return True

    def act_is_bound_to_the_server(self) -> bool:
        return True

    def arms_first(self) -> bool:
        return True
