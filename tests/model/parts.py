"""What the model's world is made of: requests to the witness, guard processes, hosts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.guard.lease import Held, Watched
from recovery.guard.promises import Given, Received


@dataclass(frozen=True)
class Request:
    """Under way to the witness: a read, or a write of ``value`` over ``version``. ``answer`` once it was delivered."""

    key: str
    purpose: str
    sent: float
    value: OwnershipRecord | RegionLease | None = None
    version: str | None = None
    answer: tuple[Any, ...] | None = None
    mark: str = ""  # the content of ``value``

    def told(self) -> str:
        """The content of the answer."""
        if self.answer is None:
            return "-"
        told = self.answer[-1]
        return told if isinstance(told, str) else told[1] if told else "nothing"


@dataclass
class Guard:
    """One guard process. Lost with all it knows when it crashes."""

    given: Given
    held: Held | None = None
    own: Watched | None = None
    reread: bool = True
    record: OwnershipRecord | None = None
    version: str | None = None
    began: float = -math.inf
    fencing_seen: float = math.inf
    watched: dict[str, Watched] = field(default_factory=dict)
    slots: dict[str, Request] = field(default_factory=dict)
    order: GuardOrder | None = None
    promoting: bool = False
    demoted: bool = True  # since it adopted the group
    acting: int | None = None  # the server process that it is about to promote
    taking: str | None = None  # the version of the record that a takeover of ours names
    received: Received | None = None

    def copy(self) -> Guard:
        return replace(self, watched=dict(self.watched), slots=dict(self.slots))


@dataclass
class Host:
    """A region's host: its clock, guard, companion and store."""

    rate: float = 1.0
    offset: float = 0.0
    frozen: str | None = None  # "paused": its clock stands still; "suspended": it goes on
    froze_at: float = 0.0
    woke_at: float = -math.inf
    woke_server: int | None = None  # the server process that ran when the host froze
    guard: Guard | None = None
    last_instance: str | None = None
    instances: int = 0
    companion_frozen: bool = False
    armed: float = -math.inf  # the deadline in the companion's file
    looked: float = -math.inf  # the deadline at which the companion acted
    enforced: float = -math.inf  # the deadline at which the guard acted, its companion being frozen
    primary: bool = False
    server: int = 0  # which server process: a kill ends it

    def copy(self) -> Host:
        return replace(self, guard=self.guard.copy() if self.guard else None)


def etag(value: OwnershipRecord | RegionLease) -> str:
    """Made of the content alone, as S3 does it: the same content twice has the same version."""
    return value.model_dump_json()
