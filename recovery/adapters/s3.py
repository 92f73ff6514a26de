"""An S3 bucket as a location: AWS, or any server that speaks the protocol and honours conditional writes.

boto3 blocks, so every call runs in a small thread pool of the location's own: one that hangs cannot take the threads of
another. Objects are single PUT requests with their SHA-256 as checksum, which the server verifies before it answers;
chunks are far below the 5 GiB limit of a single PUT.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.config import Config

from recovery.adapters.aws import make_client
from recovery.adapters.s3_bucket import Expected, ObjectSettings, ReplicaRule
from recovery.adapters.s3_errors import FAILURES, UNKNOWN_OUTCOME, explain
from recovery.errors import BadInput, Contended, NotFound, Refused, Unreachable
from recovery.ports.object_store import ObjectInfo

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Reply = TypeVar("Reply")

READABLE_CLASSES = {
    "STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR",
    "OUTPOSTS", "EXPRESS_ONEZONE",
}  # fmt: skip
DELETE_BATCH = 1000  # the protocol's limit
TRIES = 3  # of requests that may be repeated without harm
PAUSE = 0.15
PLAIN = ObjectSettings()


class S3Store:
    """``recovery.ports.object_store.ObjectStore`` on a bucket, below ``prefix``.

    Args:
        name: the location's name in the configuration.
        endpoint_url: of a server other than AWS; it is addressed in path style.
        access_key, secret_key, session_token: None leaves them to boto3's own chain (environment, profile, role).
        objects: what new objects are written with; their storage class must be readable at once.
        replica: the bucket's own replication, as it is expected to be.
        remover: the same bucket with other credentials, which may delete; it is closed with this one.
        connections: parallel requests.
        connect_timeout, read_timeout: seconds.

    Raises:
        BadInput: a storage class whose objects cannot be read back at once, or an unknown one.
    """

    def __init__(
        self,
        name: str,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        objects: ObjectSettings = PLAIN,
        replica: ReplicaRule | None = None,
        remover: S3Store | None = None,
        connections: int = 8,
        ca_file: str | None = None,
        versioning_required: bool = True,
        connect_timeout: float = 3.0,
        read_timeout: float = 20.0,
    ) -> None:
        if objects.storage_class is not None and objects.storage_class not in READABLE_CLASSES:
            raise BadInput(
                f"location {name}: storage class {objects.storage_class!r} cannot be used, because a recovery point "
                f"must be readable at once; expected one of {', '.join(sorted(READABLE_CLASSES))}, "
                "for example GLACIER_IR"
            )
        self._name = name
        self._bucket = bucket
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._objects = objects
        self._remover = remover
        self._expected = Expected(bucket, self._root, objects, versioning_required, replica)
        self._secrets = [text for text in (access_key, secret_key, session_token) if text]
        self._writes_proven = False
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix=f"s3-{name}")
        self._making: asyncio.Task[S3Client] | None = None
        self._made: S3Client | None = None
        self._settings: dict[str, Any] = {
            "region_name": region or "us-east-1",
            "endpoint_url": endpoint_url,
            "aws_access_key_id": access_key,
            "aws_secret_access_key": secret_key,
            "aws_session_token": session_token,
            "verify": ca_file,
            "config": Config(
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
                retries={"total_max_attempts": 1, "mode": "standard"},  # we repeat only what may be repeated
                max_pool_connections=connections,
                s3={"addressing_style": "path" if endpoint_url else "auto", "payload_signing_enabled": False},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        }

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"S3Store({self._name!r}, {self._bucket!r})"

    async def put(
        self,
        key: str,
        body: bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        sha256: str | None = None,
    ) -> str:
        """See the port. A conditional write whose outcome is unknown is resolved by reading the object back."""
        request = await self._put_request(key, body, sha256)
        if if_absent:
            request["IfNoneMatch"] = "*"
        elif if_match is not None:
            request["IfMatch"] = if_match
        else:
            return (await self._repeat(lambda client: client.put_object(**request)))["ETag"]
        return await self._put_conditionally(key, body, request)

    async def _put_request(self, key: str, body: bytes, sha256: str | None) -> dict[str, Any]:
        if sha256 is None:
            sha256 = await self._run(lambda: hashlib.sha256(body).hexdigest())
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        return {
            "Bucket": self._bucket,
            "Key": self._root + key,
            "Body": body,
            "ChecksumSHA256": checksum,
            **self._objects.request(datetime.now(UTC)),
        }

    async def _put_conditionally(self, key: str, body: bytes, request: dict[str, Any]) -> str:
        """After an unknown outcome a refused condition may be the trace of our own earlier try: the body decides."""
        uncertain: Unreachable | None = None
        for attempt in range(TRIES):
            try:
                return (await self._call(lambda client: client.put_object(**request)))["ETag"]
            except NotFound as error:
                if "IfMatch" in request:  # the object that was to be replaced is gone
                    raise Contended(f"{self._name}: {key} does not exist any more") from error
                raise
            except (Contended, *UNKNOWN_OUTCOME) as error:
                if isinstance(error, Contended) and uncertain is None:
                    raise
                stored = await self._read_back(key)
                if stored is not None and stored[0] == body:
                    return stored[1]
                if isinstance(error, Contended):
                    raise
                uncertain = error
            await asyncio.sleep(PAUSE * 2**attempt)
        raise Unreachable(f"{uncertain}. It is unknown whether {key} was stored")

    async def _read_back(self, key: str) -> tuple[bytes, str] | None:
        try:
            return await self.get(key)
        except NotFound:
            return None

    async def get(self, key: str) -> tuple[bytes, str]:
        def read(client: S3Client) -> tuple[bytes, str]:
            answer = client.get_object(Bucket=self._bucket, Key=self._root + key)
            with answer["Body"] as stream:
                return stream.read(), answer["ETag"]

        return await self._repeat(read)

    async def head(self, key: str) -> ObjectInfo | None:
        try:
            answer = await self._repeat(lambda client: client.head_object(Bucket=self._bucket, Key=self._root + key))
        except NotFound:
            return None
        found = answer.get("ReplicationStatus")
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"], answer["LastModified"], found)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for page in self._pages(prefix, {}):
            for entry in page.get("Contents", []):
                key = entry["Key"].removeprefix(self._root)
                yield ObjectInfo(key, entry["Size"], entry["ETag"], entry["LastModified"])

    async def folders(self, prefix: str) -> Sequence[str]:
        found: set[str] = set()
        async for page in self._pages(prefix, {"Delimiter": "/"}):
            for entry in page.get("CommonPrefixes", []):
                found.add(entry["Prefix"].removeprefix(self._root + prefix).rstrip("/"))
        return sorted(found)

    async def _pages(self, prefix: str, options: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        request = {"Bucket": self._bucket, "Prefix": self._root + prefix, **options}
        while True:
            page: dict[str, Any] = await self._repeat(
                lambda client, request=request: client.list_objects_v2(**request)  # type: ignore[misc]
            )
            yield page
            if not page.get("IsTruncated"):
                return
            request = {**request, "ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> None:
        if self._remover is not None:
            await self._remover.delete(keys)
            return
        for start in range(0, len(keys), DELETE_BATCH):
            batch: Any = [{"Key": self._root + key} for key in keys[start : start + DELETE_BATCH]]
            request: Any = {"Objects": batch, "Quiet": True}
            answer = await self._repeat(
                lambda client, request=request: client.delete_objects(Bucket=self._bucket, Delete=request)  # type: ignore[misc]
            )
            errors = [entry for entry in answer.get("Errors", []) if entry.get("Code") != "NoSuchKey"]
            if errors:
                first = errors[0]
                message = f"{self._name}: {len(errors)} objects were not deleted: {first.get('Code')}"
                raise Refused(message) if first.get("Code") == "AccessDenied" else Unreachable(message)

    async def shortcomings(self) -> Sequence[str]:
        """See the port. Where objects are to be locked, one small object is written and tried: it goes later. Whether
        writes are conditional and checked is tried until it is proven, once in a process."""
        found: list[str] = []
        checks: list[Callable[[S3Client], Iterator[str]]] = self._expected.checks()
        for check in checks if self._writes_proven else [*checks, self._expected.writes]:
            try:
                lacking = await self._repeat(lambda client, check=check: [*check(client)])  # type: ignore[misc]
            except Refused as error:
                if check == self._expected.writes and found:
                    continue  # a bucket that lacks what each object is written with takes none
                lacking = [f"it is unknown whether bucket {self._bucket} is as configured: {error}"]
            if check == self._expected.writes:
                self._writes_proven = not lacking
            found += lacking
        return found

    async def open(self) -> None:
        """Makes the client now, so that the first request does not wait for it. Nothing is sent."""
        await self._client()

    async def close(self) -> None:
        """Does not wait for requests on their way; their time-outs end them."""
        if self._remover is not None:
            await self._remover.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._made is not None:
            await asyncio.to_thread(self._made.close)

    async def _repeat(self, action: Callable[[S3Client], Reply]) -> Reply:
        """For requests that change nothing, or the same thing twice."""
        for attempt in range(TRIES - 1):
            try:
                return await self._call(action)
            except Unreachable:
                await asyncio.sleep(PAUSE * 2**attempt)
        return await self._call(action)

    async def _call(self, action: Callable[[S3Client], Reply]) -> Reply:
        client = await self._client()

        def act() -> Reply:
            try:
                return action(client)
            except FAILURES as error:
                raise explain(error, f"location {self._name}", self._secrets) from None

        return await self._run(act)

    async def _client(self) -> S3Client:
        """Made at the first use and in a thread: it reads files and takes a quarter of a second.

        A request that is given up meanwhile leaves the making to the next one: short time-outs would never get past it.
        """
        if self._made is None:
            if self._making is None:
                self._making = asyncio.create_task(self._run(lambda: make_client("s3", **self._settings)))
            try:
                self._made = await asyncio.shield(self._making)
            finally:
                if self._making is not None and self._making.done():
                    self._making = None
        return self._made

    async def _run(self, work: Callable[[], Reply]) -> Reply:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
