"""The rules of the guards with one of them broken each: the model has to find every one.

Not here are rules that guard what another rule guards already: a promise is refused while a break of ours is under way,
and revives nothing that ended. Breaking one of these alone makes no second primary.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.guard import decisions
from recovery.guard.decisions import Break, Refusal, Settled, Wait, Write
from recovery.guard.lease import Found, Held, Watched
from recovery.guard.promises import Given, Received
from tests.model.rules import AT, Rules


class CountsFromAfterTheWrite(Rules):
    """The holder counts a renewal from when its confirmation came."""

    def confirmed(self, held: Held, serial: int, version: str, now: float) -> Held:
        return self._from_now(held, now).confirmed(serial, version, now)

    def seen(self, held: Held, found: Found, now: float) -> Held:
        return self._from_now(held, now).seen(found, now)

    @staticmethod
    def _from_now(held: Held, now: float) -> Held:
        return replace(held, tried=tuple((serial, now) for serial, _ in held.tried))


class UsesASerialAgain(Rules):
    """A renewal whose outcome is unknown is sent again under the same serial, as if the first had never been."""

    def renewal(self, held: Held, now: float) -> tuple[Held, RegionLease]:
        if held.tried:
            serial = held.tried[-1][0]
            again = replace(held, serial=serial - 1, tried=held.tried[:-1])
            return again.renewal(now, AT)
        return held.renewal(now, AT)


class WatchesFromBeforeTheRead(Rules):
    """The watcher counts from when its read began."""

    def read(self, watched: Watched, found: Found, began: float, returned: float) -> Watched:
        return watched.read(found, began=began, returned=began)


class BreaksWhateverStands(Rules):
    """The break names no version."""

    def break_version(self, watched: Watched) -> str | None:
        return "*"


class LeavesNoMargin(Rules):
    """The watcher waits for one ttl alone."""

    def fence_step(self, record: OwnershipRecord, order: GuardOrder, region: str, **about: Any) -> decisions.FenceStep:
        step = super().fence_step(record, order, region, **about)
        watched: Watched = about["watched"]
        if isinstance(step, Wait) and watched.lease is not None and not watched.over():
            now, given = about["now"], about["given"]
            if watched.unchanged_for(now) >= watched.lease.ttl and not given.binds_lease(watched.lease.instance, now):
                return Break()
        return step


class PromotesWithoutItsOwnLease(Rules):
    """The record alone decides: whoever stands in it promotes and stays, lease or not, armed or not."""

    def may_be_primary(self, record: OwnershipRecord | None, region: str, held: Held, now: float, **about: Any) -> bool:
        return super().may_be_primary(record, region, _immortal(held), now, **{**about, "read_began": now})

    def promotion(
        self, record: OwnershipRecord, order: GuardOrder, region: str, held: Held, now: float, given: Given
    ) -> Write | Settled | Wait | Refusal:
        return super().promotion(record, order, region, _immortal(held), now, given)

    def arms_first(self) -> bool:
        return False


def _immortal(held: Held) -> Held:
    return replace(held, deadline=math.inf, lost=None, valid_from=-math.inf)


class ForgetsItsPromises(Rules):
    """A guard that was restarted acts on leases at once."""

    def given(self, started: float, longest: float, margin: float) -> Given:
        return Given(-math.inf, longest, margin)


class CountsPromisesFromTheAnswer(Rules):
    """The holder counts a promise from when the answer came."""

    def promised(self, received: Received, peer: str, **about: Any) -> Received:
        return received.promised(peer, **{**about, "sent": about["now"]})


class ActsOnAnotherServer(Rules):
    """A promotion that was held up reaches whatever server runs by then."""

    def act_is_bound_to_the_server(self) -> bool:
        return False


class ArmsNoCompanion(Rules):
    """A store is promoted before its companion knows the deadline."""

    def arms_first(self) -> bool:
        return False


class ConfirmsBeforeItDemoted(Rules):
    """The guard confirms a demotion that it is about to do."""

    def demotes_before_it_confirms(self) -> bool:
        return False
