"""Ownership records as objects ``ownership/<group>.json`` at a location outside all data regions.

Any object store that honours ``If-Match`` and ``If-None-Match`` is a compare-and-swap register.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from pydantic import ValidationError

from recovery.domain.ownership import OwnershipRecord
from recovery.errors import BadInput, Contended, Corrupt, NotFound, Unreachable
from recovery.ports.object_store import ObjectStore

Reply = TypeVar("Reply")
TIMEOUT = 5.0


class WitnessStore:
    """``recovery.ports.ownership.OwnershipStore``.

    Args:
        timeout: seconds for one request to the witness, its retries included.
    """

    def __init__(self, store: ObjectStore, timeout: float = TIMEOUT) -> None:
        self._store = store
        self._timeout = timeout

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        """See the port. Raises Corrupt when what is there is no ownership record."""
        found = await self._read_bytes(group)
        if found is None:
            return None
        body, version = found
        try:
            record = OwnershipRecord.model_validate_json(body)
        except ValidationError as error:
            raise Corrupt(f"{_key(group)} at {self._store.name} is no ownership record: repair it by hand") from error
        if record.group != group:
            raise Corrupt(f"{_key(group)} at {self._store.name} is the record of {record.group}: repair it by hand")
        return record, version

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        """See the port.

        A record that stands there byte for byte counts as written: so an attempt whose answer was lost, and the
        attempt after it, learn that they succeeded. After Unreachable the write may still arrive: read again.
        """
        body = record.model_dump_json().encode()
        try:
            return await self._answered(
                self._store.put(_key(record.group), body, if_absent=version is None, if_match=version)
            )
        except (Contended, Unreachable) as error:
            found = await self._read_bytes(record.group)
            if found is not None and found[0] == body:
                return found[1]
            if isinstance(error, Contended) or (found[1] if found else None) != version:
                raise Contended(f"the ownership record of {record.group} was changed by another run") from error
            raise

    async def _read_bytes(self, group: str) -> tuple[bytes, str] | None:
        try:
            return await self._answered(self._store.get(_key(group)))
        except NotFound:
            return None

    async def _answered(self, request: Awaitable[Reply]) -> Reply:
        try:
            async with asyncio.timeout(self._timeout):
                return await request
        except TimeoutError as error:
            raise Unreachable(f"the witness {self._store.name} did not answer within {self._timeout:g} s") from error


def _key(group: str) -> str:
    if "/" in group or not group or group.startswith("."):
        raise BadInput(f"{group!r} is no name of a group")
    return f"ownership/{group}.json"
