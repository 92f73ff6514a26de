"""What a change of owner cost, and what the old side still held: the evidence of failover and reprotect."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from recovery.domain.base import Recorded

UNITS = {"postgres": "bytes", "redis": "bytes", "nats": "messages"}
"""What positions of each store count."""


class StoreLoss(Recorded):
    """What of one store was not taken over. ``None``: nobody can know, for the old side did not say its position."""

    store: str
    lost: int | None = None  # bytes of WAL, bytes of replication stream, or messages
    unit: str = "bytes"
    lost_seconds: float | None = None
    proven_zero: bool = False  # by an acknowledging set, or because the final positions were equal
    source_position: str | None = None
    target_position: str | None = None
    detail: str = ""


class StoreDivergence(Recorded):
    """What a returned old primary holds that the new owner lacks: saved before the side is rewound or wiped.

    ``files`` are where it was saved; ``transactions`` and ``messages`` are counts of what was acknowledged and is not
    in the new owner; ``listed`` names the first of them for people.
    """

    store: str
    region: str
    since: str | None = None  # the position at which the new owner left the common history
    until: str | None = None
    bytes: int = 0
    transactions: int | None = None
    messages: int | None = None
    files: list[str] = Field(default_factory=list)
    listed: list[str] = Field(default_factory=list)
    saved_at: datetime | None = None
    detail: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.bytes or self.transactions or self.messages)
