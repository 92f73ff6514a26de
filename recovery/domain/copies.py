"""What a location has of a recovery point. Pure."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Recorded


class CopyState(StrEnum):
    WHOLE = "whole"
    FILLING = "being filled"  # objects and no manifest, which is written last; or an attempt that ended early
    INCOMPLETE = "incomplete"  # objects that the manifest names are missing, or have another size
    DAMAGED = "damaged"  # a validation found it so, and none found it whole since
    DISBELIEVED = "not believed"
    MISSING = "missing"
    UNKNOWN = "not known"


class Replication(StrEnum):
    """How far a bucket's own replication of an object is, as HeadObject says it (``ReplicationStatus``)."""

    COMPLETED = "COMPLETED"
    PENDING = "PENDING"
    FAILED = "FAILED"
    REPLICA = "REPLICA"
    NONE = "NONE"  # of a bucket that is to replicate: no rule covers the object
    UNKNOWN = "UNKNOWN"  # it could not be asked

    @classmethod
    def of(cls, status: str | None) -> Replication:
        """Of the protocol's word; Amazon's pages have COMPLETE, too."""
        if status is None:
            return cls.NONE
        word = status.upper()
        known = {each.value: each for each in cls} | {"COMPLETE": cls.COMPLETED}
        return known.get(word, cls.UNKNOWN)

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Replication.COMPLETED: "replicated",
    Replication.PENDING: "replication pending",
    Replication.FAILED: "replication failed",
    Replication.REPLICA: "a replica",
    Replication.NONE: "not replicated",
    Replication.UNKNOWN: "replication not known",
}


class Copy(Recorded):
    """A recovery point at one location. ``replication``: of a bucket that replicates by itself, how many of the objects
    that were looked at are how far; ``detail``: what is wrong with it."""

    state: CopyState
    replication: dict[Replication, int] = Field(default_factory=dict)
    detail: str = ""

    @property
    def worst(self) -> Replication | None:
        """Of its objects the one that is least replicated; None where the bucket does not replicate."""
        order = [
            Replication.FAILED, Replication.NONE, Replication.UNKNOWN, Replication.PENDING, Replication.REPLICA,
            Replication.COMPLETED,
        ]  # fmt: skip
        return next((each for each in order if each in self.replication), None)
