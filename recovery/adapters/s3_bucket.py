"""What a bucket gives its objects, and what it lacks: versioning, object lock, encryption, replication.

Everything here blocks and runs in a location's threads. Each shortcoming is a sentence with the command that mends it.
API: docs.aws.amazon.com/AmazonS3/latest/API (GetBucketVersioning, GetObjectLockConfiguration, GetBucketReplication).
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from recovery.adapters.s3_errors import DAMAGED_ON_ITS_WAY

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROBES = "lock-probes/"
CLASS_PROBES = "storage-class-probes/"
WRITE_PROBES = "write-probes/"
PROBED = timedelta(minutes=1)
"""How long a probe of the object lock is locked itself."""

_DENIED = {"AccessDenied", "AllAccessDisabled", "UnauthorizedAccess"}
_KEPT = {*_DENIED, "InvalidRequest"}
"""What the deletion of a locked version is answered; the last one is MinIO's."""
_ABSENT = {"ObjectLockConfigurationNotFoundError", "ReplicationConfigurationNotFoundError", "NoSuchConfiguration"}


@dataclass(frozen=True)
class ObjectLock:
    """Retention of new objects, from their writing on."""

    mode: Literal["COMPLIANCE", "GOVERNANCE"]
    days: int


@dataclass(frozen=True)
class ObjectSettings:
    """What every object of a location is written with.

    ``encryption``: AES256, aws:kms or aws:kms:dsse, the server's own on top of ours.
    """

    storage_class: str | None = None
    encryption: str | None = None
    kms_key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    lock: ObjectLock | None = None

    def request(self, now: datetime) -> dict[str, Any]:
        """Parameters of PutObject."""
        request: dict[str, Any] = {}
        if self.storage_class is not None:
            request["StorageClass"] = self.storage_class
        if self.encryption is not None:
            request["ServerSideEncryption"] = self.encryption
        if self.kms_key is not None:
            request["SSEKMSKeyId"] = self.kms_key
        if self.tags:
            request["Tagging"] = urlencode(dict(self.tags))
        if self.lock is not None:
            request |= _retention(self.lock, now + timedelta(days=self.lock.days))
        return request


@dataclass(frozen=True)
class ReplicaRule:
    """The bucket's own replication, as it is expected to be. ``kms_key``: ARN of the key in the replica's region."""

    bucket: str
    storage_class: str
    kms_key: str | None = None


@dataclass(frozen=True)
class Expected:
    """What a location's bucket has to have. ``root`` is the prefix of all keys, with its slash."""

    bucket: str
    root: str
    settings: ObjectSettings
    versioning: bool
    replica: ReplicaRule | None = None

    def checks(self) -> list[Callable[[S3Client], Iterator[str]]]:
        """Each yields shortcomings, and raises what boto3 raises."""
        checks: list[Callable[[S3Client], Iterator[str]]] = []
        if self.versioning or self.settings.lock or self.replica:
            checks.append(self._versioned)
        if self.settings.lock is not None:
            checks.append(self._locked)
        if self.replica is not None:
            checks.append(self._replicated)
        if self.settings.storage_class not in (None, "STANDARD"):
            checks.append(self._classed)
        return checks

    def writes(self, client: S3Client) -> Iterator[str]:
        """Servers exist that take the headers of a write and ignore them: what a recovery point's being whole, and
        there once, rests on. One small object stays there; whoever may only add objects may ask, too."""
        yield from self._conditional(client)
        yield from self._verified(client)

    def _conditional(self, client: S3Client) -> Iterator[str]:
        key, body = f"{self.root}{WRITE_PROBES}once", b"written once"
        refused = not self._put_once(client, key, body, body) or not self._put_once(client, key, body, body)
        if not refused:
            yield (
                f"bucket {self.bucket} overwrites what If-None-Match: * protects, so two workers could both complete "
                "one recovery point: use a server that honours conditional writes (AWS, MinIO, SeaweedFS 4 do)"
            )
        with client.get_object(Bucket=self.bucket, Key=key)["Body"] as stream:
            if stream.read() != body:
                yield (
                    f"bucket {self.bucket} does not give back what was stored ({key}): use another server, or remove "
                    "what changes objects on their way"
                )

    def _verified(self, client: S3Client) -> Iterator[str]:
        key = f"{self.root}{WRITE_PROBES}damaged"
        try:
            self._put_once(client, key, b"as it arrived", b"as it was sent")
        except ClientError as error:
            if _code(error) in DAMAGED_ON_ITS_WAY or _status(error) == 400:
                return
            raise
        # It is there, from now or from an earlier time.
        yield (
            f"bucket {self.bucket} stores objects whose SHA-256 is not the one that was sent ({key} is one), so bytes "
            "that are damaged on their way are found by a validation only: use a server that verifies checksums, and "
            "delete that object to have it tried again"
        )

    def _put_once(self, client: S3Client, key: str, body: bytes, sent: bytes) -> bool:
        """Whether it was stored, as backups store: under a condition, and with the SHA-256 of what was ``sent``."""
        checksum = base64.b64encode(hashlib.sha256(sent).digest()).decode()
        put: Any = client.put_object
        request = {"Bucket": self.bucket, "Key": key, "Body": body, "ChecksumSHA256": checksum, "IfNoneMatch": "*"}
        try:
            put(**request, **self.settings.request(datetime.now(UTC)))
        except ClientError as error:
            if _status(error) not in (409, 412):
                raise
            return False
        return True

    def _versioned(self, client: S3Client) -> Iterator[str]:
        if client.get_bucket_versioning(Bucket=self.bucket).get("Status") != "Enabled":
            yield (
                f"bucket {self.bucket} has versioning off, so an overwritten or deleted object is lost: "
                f"aws s3api put-bucket-versioning --bucket {self.bucket} --versioning-configuration Status=Enabled"
            )

    def _classed(self, client: S3Client) -> Iterator[str]:
        """Servers exist that take the header and keep no class: one small object of the class stays there and says."""
        wanted = self.settings.storage_class
        key = f"{self.root}{CLASS_PROBES}{wanted}"
        put: Any = client.put_object
        try:
            put(Bucket=self.bucket, Key=key, Body=b"class", IfNoneMatch="*", **self.settings.request(datetime.now(UTC)))
        except ClientError as error:
            if _status(error) not in (409, 412):  # it is there
                raise
        kept = client.head_object(Bucket=self.bucket, Key=key).get("StorageClass", "STANDARD")
        if kept != wanted:
            yield (
                f"bucket {self.bucket} keeps objects as {kept}, and not as {wanted}: its server knows no such storage "
                "class; set storage_class of the location to what it has, or leave it out"
            )

    def _locked(self, client: S3Client) -> Iterator[str]:
        """Servers exist that take the header and lock nothing: one object is locked for a minute and tried."""
        configured = _or_absent(lambda: client.get_object_lock_configuration(Bucket=self.bucket))
        if configured is None or configured["ObjectLockConfiguration"].get("ObjectLockEnabled") != "Enabled":
            yield (
                f"bucket {self.bucket} has no object lock, so its objects can be deleted: aws s3api "
                f"put-object-lock-configuration --bucket {self.bucket} --object-lock-configuration "
                "ObjectLockEnabled=Enabled (the bucket needs versioning first)"
            )
            return
        assert self.settings.lock is not None
        _forget_probes(client, self.bucket, self.root)
        if not self._keeps(client, self.settings.lock):
            yield (
                f"bucket {self.bucket} says that it locks objects and does not: an object locked in mode "
                f"{self.settings.lock.mode} could be deleted. Use a server that enforces object lock, or remove "
                "object_lock from the location"
            )

    def _keeps(self, client: S3Client, lock: ObjectLock) -> bool:
        """Whether a locked object withstands its deletion, and is what the server says it is. It is written as backups
        write, under a condition: credentials that may only add objects are refused without one."""
        key = f"{self.root}{PROBES}{uuid.uuid4().hex}"
        until = (datetime.now(UTC) + PROBED).replace(microsecond=0)
        put: Any = client.put_object
        stored = put(Bucket=self.bucket, Key=key, Body=b"locked", IfNoneMatch="*", **_retention(lock, until))
        if "VersionId" not in stored:
            return False
        version: dict[str, str] = {"Bucket": self.bucket, "Key": key, "VersionId": stored["VersionId"]}
        try:
            client.delete_object(**version)  # type: ignore[arg-type]
        except ClientError as error:
            if _code(error) not in _KEPT:
                raise
        # Whoever may not delete at all is refused as well: the version is still there, and says for how long.
        try:
            kept = client.get_object_retention(**version)["Retention"]  # type: ignore[arg-type]
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return kept.get("Mode") == lock.mode and kept["RetainUntilDate"] >= until

    def _replicated(self, client: S3Client) -> Iterator[str]:
        assert self.replica is not None
        found = _or_absent(lambda: client.get_bucket_replication(Bucket=self.bucket))
        rules: list[Any] = list(found["ReplicationConfiguration"]["Rules"]) if found else []
        arn = f"arn:aws:s3:::{self.replica.bucket}"
        ours = [rule for rule in rules if rule["Destination"]["Bucket"] == arn and self._covers(rule)]
        on = [rule for rule in ours if rule.get("Status") == "Enabled"]
        how = f"aws s3api put-bucket-replication --bucket {self.bucket} --replication-configuration file://rule.json"
        if not on:
            keys, what = self.root or "all keys", "is disabled" if ours else "does not exist"
            yield f"bucket {self.bucket}: the replication of {keys} to {self.replica.bucket} {what}: {how}"
            return
        yield from self._replicas_settings(on[0], how)

    def _covers(self, rule: Any) -> bool:
        """Whether a rule is for all of the location's keys. One that asks for tags is for some of them."""
        chosen = rule.get("Filter", {})
        prefix = chosen.get("Prefix", chosen.get("And", {}).get("Prefix", rule.get("Prefix", "")))
        return self.root.startswith(prefix) and "Tag" not in chosen and "And" not in chosen

    def _replicas_settings(self, rule: Any, how: str) -> Iterator[str]:
        assert self.replica is not None
        destination = rule["Destination"]
        name = f"bucket {self.bucket}: the replica in {self.replica.bucket}"
        storage_class = destination.get("StorageClass", self.settings.storage_class or "STANDARD")
        if storage_class != self.replica.storage_class:
            yield f"{name} gets storage class {storage_class}, expected {self.replica.storage_class}: {how}"
        key = destination.get("EncryptionConfiguration", {}).get("ReplicaKmsKeyID")
        if self.replica.kms_key is None:
            return
        if key != self.replica.kms_key:
            yield f"{name} is encrypted with {key or 'no KMS key'}, expected {self.replica.kms_key}: {how}"
        region = self.replica.kms_key.split(":")[3] if self.replica.kms_key.count(":") >= 5 else ""
        if not region:
            yield f"{name}: replication.kms_key {self.replica.kms_key} is not an ARN, expected arn:aws:kms:<region>:..."
        selected = rule.get("SourceSelectionCriteria", {}).get("SseKmsEncryptedObjects", {}).get("Status")
        encrypted = self.settings.encryption or ""
        if encrypted.startswith("aws:kms") and selected != "Enabled":
            yield (
                f"{name} misses what is encrypted with a KMS key here: the rule needs SourceSelectionCriteria "
                f"SseKmsEncryptedObjects Status Enabled: {how}"
            )


def _forget_probes(client: S3Client, bucket: str, root: str) -> None:
    """Deletes probes whose lock is over. Credentials that may not delete leave them: some bytes each."""
    try:
        page = client.list_object_versions(Bucket=bucket, Prefix=f"{root}{PROBES}")
    except ClientError as error:
        if _code(error) in _DENIED:
            return
        raise
    past = datetime.now(UTC) - PROBED - timedelta(seconds=5)
    gone: Any = [
        {"Key": entry["Key"], "VersionId": entry["VersionId"]}
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if entry["LastModified"] < past
    ]
    if gone:
        client.delete_objects(Bucket=bucket, Delete={"Objects": gone, "Quiet": True})


def _retention(lock: ObjectLock, until: datetime) -> dict[str, Any]:
    """S3 refuses a locked object whose request does not name its checksum's algorithm, beside the checksum."""
    return {"ObjectLockMode": lock.mode, "ObjectLockRetainUntilDate": until, "ChecksumAlgorithm": "SHA256"}


def _or_absent(ask: Callable[[], Any]) -> Any:
    """The answer, or None where the bucket has no such configuration."""
    try:
        return ask()
    except ClientError as error:
        if _code(error) in _ABSENT or _status(error) == 404:
            return None
        raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
