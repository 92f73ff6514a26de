"""What an old primary accepted after its history forked from the new primary's: files of it, and the transactions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from recovery.domain.base import Recorded
from recovery.domain.recovery_point import StoredObject


class SavedFile(Recorded):
    """One file that was put aside: a WAL segment, a timeline's history, an RDB file, or messages."""

    name: str
    size: int
    sha256: str


class SealedFile(SavedFile):
    """One of them as it is stored: sealed for the installation's recipients. ``size`` and ``sha256`` are the plain
    file's."""

    objects: list[StoredObject] = Field(default_factory=list)


class SealedFiles(Recorded):
    """What was put aside at one return. ``about``: what a guard tells of it, once all of it is there."""

    saved_at: datetime
    about: dict[str, Any] | None = None
    files: list[SealedFile] = Field(default_factory=list)


class LostTransaction(Recorded):
    """A committed transaction that the new primary does not have."""

    xid: int
    committed_at: datetime
    lsn: str  # of its commit record
    relations: list[str] = Field(default_factory=list)  # database.schema.table where known, else database/filenode
    records: int = 0
    maintenance: bool = False  # statistics that autovacuum refreshed: nothing of the user's


class Divergence(Recorded):
    """Saved before anything is wiped. ``fork_lsn``: up to there both sides are equal.

    ``count``, ``first_commit_at`` and ``last_commit_at`` are of the user's transactions; ``transactions`` lists the
    first ``LISTED`` of them and of the server's own, ``count`` counts all.
    """

    effect_id: str
    system_identifier: str
    timeline: int  # of the old primary
    fork_lsn: str
    end_lsn: str
    bytes: int  # of WAL after the fork
    count: int = 0
    maintenance_count: int = 0
    first_commit_at: datetime | None = None
    last_commit_at: datetime | None = None
    transactions: list[LostTransaction] = Field(default_factory=list)
    files: list[SavedFile] = Field(default_factory=list)
    place: str = ""  # where the files are, in the sink's words
    notes: list[str] = Field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """No transaction of the user's is missing at the new primary."""
        return self.count == 0

    def summary(self) -> str:
        """One readable line."""
        if self.nothing:
            return f"no transaction was left behind ({self.bytes} bytes of WAL after {self.fork_lsn}, none of a user's)"
        word = "transaction" if self.count == 1 else "transactions"
        return (
            f"{self.count} {word} left behind, committed from {self.first_commit_at} to {self.last_commit_at}, in "
            f"{self.bytes} bytes of WAL after {self.fork_lsn}, saved in {self.place or 'no place'}"
        )


LISTED = 10_000
