"""What every restore needs of its recovery point, whichever store it is of."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from recovery.adapters.key_ring import KeyRing
from recovery.backup.reader import check_key
from recovery.domain.recovery_point import CheckResult, RecoveryPoint
from recovery.errors import RecoveryError
from recovery.ports.object_store import ObjectStore


async def check_point(point: RecoveryPoint, keys: KeyRing, stores: Sequence[ObjectStore]) -> list[CheckResult]:
    """That it is complete somewhere, and that a key of this worker opens it. ``stores``: those that hold it."""

    async def opens() -> str:
        await check_key(point.manifest, keys.opening(), stores)
        return "opens the recovery point"

    complete = f"{point.point_id} at {', '.join(point.locations)}"
    return [CheckResult(name="recovery point", passed=True, detail=complete), await checked("key", opens())]


async def checked(name: str, question: Awaitable[str]) -> CheckResult:
    """Passed with what the question answers, failed with the library's error that it raises."""
    try:
        return CheckResult(name=name, passed=True, detail=await question)
    except RecoveryError as error:
        return CheckResult(name=name, passed=False, detail=str(error))
