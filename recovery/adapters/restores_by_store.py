"""Restores of all stores behind one port: each order goes to the store whose recovery point it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, kind_of, store_of
from recovery.errors import BadInput
from recovery.ports.recovery_points import Progress, RestoreOrder, Restores


@dataclass
class RestoresByStore:
    """``recovery.ports.recovery_points.Restores``. ``parts``: each store's own, by the store's name; where a kind is
    put back in another way than its store's others, by the kind's."""

    parts: Mapping[str, Restores]

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """See the port."""
        return await self._of(order.point_id).verify_infrastructure(order)

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """See the port."""
        return await self._of(order.point_id).restore(order, progress)

    async def remove(self, order: RestoreOrder) -> bool:
        """See the port."""
        return await self._of(order.point_id).remove(order)

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """See the port."""
        return await self._of(restored.point_id).verify(group, restored)

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """See the port."""
        await self._of(restored.point_id).open_writes(group, restored)

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool:
        """See the port."""
        return await self._of(restored.point_id).accepts_writes(group, restored)

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """See the port."""
        return await self._of(restored.point_id).write_probe(group, restored, run_id)

    def _of(self, point_id: str) -> Restores:
        store = store_of(point_id)
        found = next((self.parts[name] for name in (*_kind(point_id), store) if name in self.parts), None)
        if found is None:
            raise BadInput(f"recovery point {point_id} is of {store}, which is restored by other means")
        return found


def _kind(point_id: str) -> list[BackupKind]:
    """None where the id names no kind."""
    try:
        return [kind_of(point_id)]
    except ValueError:
        return []
