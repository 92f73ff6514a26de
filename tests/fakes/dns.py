"""A zone in memory with the same rules as a real server: compare-and-swap, all changes or none."""

from __future__ import annotations

from recovery.domain.plan import DnsBefore
from recovery.errors import Contended, RecoveryError


class FakeDnsZone:
    """``records``: by name, type, zone and set identifier. ``fail_next`` is raised once by the next call."""

    def __init__(self, records: list[DnsBefore] | None = None) -> None:
        self.records: dict[tuple[str, str, str, str | None], DnsBefore] = {}
        self.fail_next: RecoveryError | None = None
        for record in records or []:
            self.records[_key(record)] = record

    async def read(self, name: str, type: str, zone: str, set_identifier: str | None = None) -> DnsBefore:
        self._raise_planned()
        nothing = DnsBefore(name=name, type=type, ttl=0, values=[], zone=zone, set_identifier=set_identifier)
        found = self.records.get(_key(nothing))
        return nothing if found is None else found.model_copy(update={"name": name, "type": type, "zone": zone})

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        self._raise_planned()
        if all(self._current(after) == _values(after) for _, after in changes):
            return
        for before, _ in changes:
            if self._current(before) != _values(before):
                raise Contended(f"{before.name} {before.type} is no longer what it was when it was read")
        for _, after in changes:
            if after.exists:
                self.records[_key(after)] = after
            else:
                self.records.pop(_key(after), None)

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        self._raise_planned()
        return []

    def _current(self, record: DnsBefore) -> list[str]:
        found = self.records.get(_key(record))
        return _values(found) if found else []

    def _raise_planned(self) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error


def _values(record: DnsBefore) -> list[str]:
    alias = [f"alias {record.alias.hosted_zone} {record.alias.name}"] if record.alias else []
    weight = [f"weight {record.weight}"] if record.weight is not None and record.exists else []
    return sorted(value.lower().rstrip(".") for value in [*record.values, *alias, *weight])


def _key(record: DnsBefore) -> tuple[str, str, str, str | None]:
    return (
        record.name.lower().rstrip("."),
        record.type.upper(),
        record.zone.lower().rstrip("."),
        record.set_identifier,
    )
