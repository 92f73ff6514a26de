"""Ownership records and leases, ``ownership/<group>.json`` and ``leases/<region>.json``, outside all data regions.

Any object store that honours ``If-Match`` and ``If-None-Match`` is a compare-and-swap register.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from pydantic import ValidationError

from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.errors import BadInput, Contended, Corrupt, NotFound, Unreachable
from recovery.ports.object_store import ObjectStore

Reply = TypeVar("Reply")
TIMEOUT = 5.0


class WitnessStore:
    """``recovery.ports.ownership.OwnershipStore`` and ``LeaseStore``.

    Args:
        timeout: seconds for one request to the witness, its retries included. A guard's is far below a third of its
            lease's ttl, so that a request that hangs leaves time for the next ones.
    """

    def __init__(self, store: ObjectStore, timeout: float = TIMEOUT) -> None:
        self._store = store
        self._timeout = timeout

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        """See the port. Raises Corrupt when what is there is no ownership record."""
        found = await self._read_bytes(_key(group))
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
            found = await self._read_bytes(_key(record.group))
            if found is not None and found[0] == body:
                return found[1]
            if isinstance(error, Contended) or (found[1] if found else None) != version:
                raise Contended(f"the ownership record of {record.group} was changed by another run") from error
            raise

    async def read_lease(self, region: str) -> tuple[RegionLease, str] | None:
        """See the port. Raises Corrupt when what is there is no lease."""
        found = await self._read_bytes(_lease_key(region))
        if found is None:
            return None
        body, version = found
        try:
            lease = RegionLease.model_validate_json(body)
        except ValidationError as error:
            raise Corrupt(f"{_lease_key(region)} at {self._store.name} is no lease: remove it by hand") from error
        if lease.region != region:
            raise Corrupt(f"{_lease_key(region)} at {self._store.name} is the lease of {lease.region}: remove it")
        return lease, version

    async def write_lease(self, lease: RegionLease, *, version: str | None) -> str:
        """See the port. One try: after Unreachable the holder reads again, and looks for its instance and serial."""
        body = lease.model_dump_json().encode()
        return await self._answered(
            self._store.put(_lease_key(lease.region), body, if_absent=version is None, if_match=version)
        )

    async def _read_bytes(self, key: str) -> tuple[bytes, str] | None:
        try:
            return await self._answered(self._store.get(key))
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


def _lease_key(region: str) -> str:
    if "/" in region or not region or region.startswith("."):
        raise BadInput(f"{region!r} is no name of a region")
    return f"leases/{region}.json"
