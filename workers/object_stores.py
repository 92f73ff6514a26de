"""Object stores as the configuration describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import structlog

from recovery.adapters.folder import FolderStore
from recovery.adapters.s3 import S3Store
from recovery.adapters.s3_bucket import ObjectLock, ObjectSettings, ReplicaRule
from recovery.adapters.secrets import Secrets
from recovery.config.locations import Credentials, Location, Store
from recovery.domain.secret import SecretRef
from recovery.errors import BadInput, NotFound

log = structlog.get_logger("recovery.locations")

_LOCK_MODES: dict[str, Literal["COMPLIANCE", "GOVERNANCE"]] = {"compliance": "COMPLIANCE", "governance": "GOVERNANCE"}


async def object_store(name: str, place: Store, secrets: Secrets, **settings: Any) -> FolderStore | S3Store:
    """A bucket or a folder. ``settings``: what the caller wants of ``S3Store`` beyond the configuration.

    Raises:
        NotFound, BadInput: a secret of it is not on this machine.
    """
    if place.bucket is None:
        return FolderStore(name, Path(place.prefix))
    if not isinstance(place, Location):
        return await _bucket(name, place, place.credentials, secrets, versioning_required=False, **settings)
    remover = None
    if place.retention_credentials is not None:
        try:
            remover = await _bucket(name, place, place.retention_credentials, secrets, versioning_required=False)
        except (NotFound, BadInput) as error:
            log.info("this machine may not delete recovery points", location=name, reason=str(error))
    return await _bucket(name, place, place.credentials, secrets, remover=remover, **_of_location(place), **settings)


async def _bucket(
    name: str, place: Store, credentials: Credentials | None, secrets: Secrets, **settings: Any
) -> S3Store:
    """Without credentials boto3's own chain finds some."""

    async def secret(reference: SecretRef | None) -> str | None:
        return None if reference is None else await secrets.resolve(reference)

    return S3Store(
        name,
        place.bucket or "",
        prefix=place.prefix,
        endpoint_url=place.endpoint,
        region=place.region,
        access_key=await secret(credentials.access_key if credentials else None),
        secret_key=await secret(credentials.secret_key if credentials else None),
        session_token=await secret(credentials.session_token if credentials else None),
        ca_file=place.ca_file,
        **settings,
    )


def _of_location(place: Location) -> dict[str, Any]:
    """What a location says beyond any other store."""
    lock, encryption, replica = place.object_lock, place.encryption, place.replication
    return {
        "objects": ObjectSettings(
            storage_class=place.storage_class,
            encryption=encryption.algorithm if encryption else None,
            kms_key=encryption.kms_key if encryption else None,
            tags=place.tags,
            lock=ObjectLock(_LOCK_MODES[lock.mode], lock.days) if lock else None,
        ),
        "replica": ReplicaRule(replica.bucket, replica.storage_class, replica.kms_key) if replica else None,
        "connections": place.max_connections,
        "versioning_required": place.versioning == "required",
    }
