"""An ownership register in memory."""

from __future__ import annotations

from recovery.domain.ownership import OwnershipRecord
from recovery.errors import Contended, RecoveryError


class FakeOwnershipStore:
    """``fail_next`` is raised once by the next call; ``lose_answer`` makes the next write succeed and raise."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[OwnershipRecord, str]] = {}
        self.writes = 0
        self.fail_next: RecoveryError | None = None
        self.lose_answer: RecoveryError | None = None

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        self._raise_planned()
        return self.records.get(group)

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        self._raise_planned()
        current = self.records.get(record.group)
        if (current[1] if current else None) != version:
            raise Contended(f"the record of {record.group} is not version {version} any more")
        self.writes += 1
        self.records[record.group] = (record, str(self.writes))
        if self.lose_answer is not None:
            error, self.lose_answer = self.lose_answer, None
            raise error
        return str(self.writes)

    def _raise_planned(self) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
