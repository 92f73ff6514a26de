"""When a server of the lab is ready: each is asked what it is for, not merely whether its port is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import botocore.config
import dns.asyncquery
import dns.message

from lab.errors import LabError, LabUnreachableError
from lab.state import SEARCH, STATE_FILE, LabState, PostgresPlace, S3Place, Server
from recovery.adapters.aws import make_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Check = Callable[[], Awaitable[None]]
READY_TIMEOUT = 60.0
SEARCH_READY_TIMEOUT = 150.0


def check_of(state: LabState, server: Server) -> Check:
    """Return what asks `server` once: it returns when the server is ready and raises (anything) until then."""
    host, port = server.host, server.port
    if server.ready is not None:
        return lambda: _says(state.folder, server)
    match server.service:
        case "postgres":
            place = state.postgres[server.region]
            return lambda: _postgres(place)
        case "nats":
            return lambda: _answers(host, port, b"", b'"jetstream":true')
        case "redis":
            password = urlsplit(state.redis[server.region]).password
            return lambda: _answers(host, port, f"AUTH {password}\r\nPING\r\n".encode(), b"+PONG")
        case "s3" | "witness":
            store = state.s3[server.region]
            return lambda: _stores(host, port, store)
        case "app":
            return lambda: _http(host, port, "/api/v1/status")
        case "webhook":
            return lambda: _http(host, port, "/healthz")
        case "search":
            return lambda: _http(host, port, "/_cluster/health")
        case "temporal":
            return lambda: _temporal(state)
        case "dns":
            return lambda: _dns(state)
        case _:
            return lambda: _connects(host, port)


async def wait_ready(folder: Path, state: LabState, server: Server, timeout: float | None = None) -> None:
    """Wait until a started server answers. Raises LabError with the end of its log when it ends or stays silent."""
    ask = check_of(state, server)
    timeout = timeout or (SEARCH_READY_TIMEOUT if server.service == SEARCH else READY_TIMEOUT)
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                await ask()
            return
        except Exception as error:  # noqa: BLE001 - every client library has its own errors for "not yet"
            reason = f"{type(error).__name__}: {error}"
        now = _read(folder, server.name)
        ended = now.state == "exited"
        if ended or asyncio.get_running_loop().time() > deadline:
            what = (
                f"ended with {now.exit_code} while it was starting"
                if ended
                else f"was not ready within {timeout:.0f} s ({reason})"
            )
            raise LabUnreachableError(
                f"{server.name} {what}. The end of {server.log_file}:\n{log_tail(server.log_file)}"
            )
        await asyncio.sleep(0.05)


def log_tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a log file, at most a few kilobytes."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 8192))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def s3_client(place: S3Place) -> S3Client:
    """Return a boto3 client of `place` with short timeouts and one attempt per call."""
    client: S3Client = make_client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id=place.access_key,
        aws_secret_access_key=place.secret_key,
        region_name=place.region,
        config=botocore.config.Config(
            connect_timeout=2,
            read_timeout=20,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
        ),
    )
    return client


async def _says(folder: Path, server: Server) -> None:
    """Its log has its ready line, since it was started last."""
    now = _read(folder, server.name)
    with now.log_file.open("rb") as log:
        log.seek(now.log_offset)
        said = log.read().decode(errors="replace")
    if (now.ready or "") not in said:
        raise LabError(f"it has not said {now.ready!r} yet")


def _read(folder: Path, name: str) -> Server:
    return LabState.model_validate_json((folder / STATE_FILE).read_bytes()).server(name)


async def _answers(host: str, port: int, question: bytes, expected: bytes) -> None:
    async with asyncio.timeout(3):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(question)
            answer = b""
            while expected not in answer and (more := await reader.read(4096)):
                answer += more
        finally:
            writer.close()
    if expected not in answer:
        raise LabError(f"it answered {answer[:200]!r}")


async def _http(host: str, port: int, path: str) -> None:
    await _answers(host, port, f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode(), b" 200 ")


async def _connects(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def _postgres(place: PostgresPlace) -> None:
    connection = await asyncpg.connect(place.dsn(database="postgres"), timeout=5)
    try:
        following = await connection.fetchval(
            "SELECT NOT pg_is_in_recovery() OR current_setting('primary_conninfo') = ''"
            " OR EXISTS (SELECT FROM pg_stat_wal_receiver)",
            timeout=5,
        )
    finally:
        connection.terminate()
    if not following:
        raise LabError("it does not stream from its primary yet")


async def _stores(host: str, port: int, place: S3Place) -> None:
    await _connects(host, port)  # a client costs more than such a look
    await asyncio.to_thread(_bucket, place)


def _bucket(place: S3Place) -> None:
    """The bucket exists, keeps versions, takes an object and gives it back.

    Asked after each start: SeaweedFS's gateway knows buckets and names before its volumes, and answers InternalError
    to whoever reads an object until these are there.
    """
    client = s3_client(place)
    known = (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists)
    with contextlib.suppress(*known):  # after a restart
        client.create_bucket(Bucket=place.bucket)
    if client.get_bucket_versioning(Bucket=place.bucket).get("Status") != "Enabled":
        client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    version = client.put_object(Bucket=place.bucket, Key=".ready", Body=b"ready")["VersionId"]
    try:
        client.get_object(Bucket=place.bucket, Key=".ready", VersionId=version)["Body"].read()
    finally:
        client.delete_object(Bucket=place.bucket, Key=".ready", VersionId=version)


async def _temporal(state: LabState) -> None:
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest  # slow to import, and not always needed
    from temporalio.client import Client
    from temporalio.service import RPCError, RPCStatusCode

    assert state.temporal is not None
    client = await Client.connect(state.temporal.address, namespace=state.temporal.namespace)
    wanted = ListSearchAttributesRequest(namespace=state.temporal.namespace)
    known = await client.operator_service.list_search_attributes(wanted)
    if not {"DrGroup", "DrPlan"} <= set(known.custom_attributes):
        raise LabError("its search attributes are not registered yet")
    try:
        # Asks the part that keeps workflows, and not only the part that takes calls.
        await client.get_workflow_handle("ready?").describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def _dns(state: LabState) -> None:
    assert state.dns is not None
    query = dns.message.make_query(f"db.{state.dns.zone}", "A")
    await dns.asyncquery.udp(query, state.dns.host, port=state.dns.port, timeout=1)
