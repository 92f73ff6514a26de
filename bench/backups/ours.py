"""Ours: a process that does what a worker's activities do, one order after the other, with the same adapters.

It lives as long as the run, as a worker does. What Temporal adds to a step is measured by
``bench.engine``, and the memory of a whole worker by ``bench.memory``. Orders and answers are lines of JSON; the first
line is the settings, since passwords belong neither into arguments nor into the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from bench.backups.measuring import Work, processor_seconds
from lab.control import python_environment
from recovery.adapters import postgres
from recovery.adapters.folder import FolderStore
from recovery.adapters.key_ring import KeyRing
from recovery.adapters.nats.connection import NatsServer
from recovery.adapters.nats.recovery import JetStreamSnapshots
from recovery.adapters.nats.validation import stored_of
from recovery.adapters.s3 import S3Store
from recovery.backup.catalogue import Catalogue
from recovery.backup.layout import PointIdentity
from recovery.backup.pipeline import write_point
from recovery.backup.reader import StoredPointReader, open_point
from recovery.backup.sealing import Opener, Sealer, generate_age_key
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.domain.recovery_point import BackupKind, RecoveryPoint, VerdictState
from recovery.errors import RestoreFailed
from recovery.ports.jetstream import StreamRestoreOptions, archive_name
from recovery.ports.object_store import ObjectStore
from recovery.ports.postgres import BackupSource, PostgresLogin, PostgresPlace, RestoreOptions

GROUP = "shop"
FOLDER, BUCKET = "folder", "bucket"
LINE = 1 << 20  # bytes of an answer at most
ANSWER_SECONDS = 3600.0


# The side of the benchmark.


@dataclass
class OurWorker:
    """The process, from outside. Every order raises RuntimeError with the process's own words when it fails."""

    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def backup(self, location: str) -> tuple[str, Work]:
        """A physical backup; the id of its point."""
        return await self._taken({"do": "backup", "location": location})

    async def validate(self, point_id: str, scratch: Path) -> None:
        """As after each backup: its restore takes the point as proven."""
        await self._ask({"do": "validate", "point": point_id, "scratch": str(scratch)})

    async def restore(self, point_id: str, directory: Path, port: int) -> Work:
        """Into an empty folder; the server runs when this returns."""
        work, _ = await self._work({"do": "restore", "point": point_id, "directory": str(directory), "port": port})
        return work

    async def backup_streams(self, streams: Sequence[str]) -> tuple[str, Work]:
        return await self._taken({"do": "backup-streams", "streams": list(streams)})

    async def restore_streams(self, point_id: str) -> Work:
        work, _ = await self._work({"do": "restore-streams", "point": point_id})
        return work

    async def forget(self, location: str, point_id: str) -> None:
        """Deletes a point."""
        await self._ask({"do": "forget", "location": location, "point": point_id})

    async def _taken(self, order: dict[str, Any]) -> tuple[str, Work]:
        work, answer = await self._work(order)
        return str(answer["point"]), work

    async def _work(self, order: dict[str, Any]) -> tuple[Work, dict[str, Any]]:
        before = processor_seconds([self.pid])
        answer = await self._ask(order)
        return Work(processor_seconds([self.pid]) - before, answer.get("stored")), answer

    async def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended; its words stand above"}
        if "error" in answer:
            raise RuntimeError(f"ours could not {order['do']}: {answer['error']}")
        return answer


@asynccontextmanager
async def our_worker(settings: dict[str, Any]) -> AsyncIterator[OurWorker]:
    """``settings``: see ``_Worker``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.backups.ours"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE,
        env={**os.environ, **python_environment()},
    )
    worker = OurWorker(process)
    try:
        await worker._ask({"do": "begin", **settings})
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


# The process.


class _Worker:
    """Settings: ``login`` (host and port), ``major``, ``binaries``, ``user``, ``folder`` of the location, ``bucket``
    (arguments of ``S3Store``, or None), ``nats`` (host and port, or None)."""

    def __init__(self, settings: dict[str, Any], answers: IO[str]) -> None:
        self._settings = settings
        self._answers = answers
        self._user = settings["user"]
        self._proven: set[str] = set()
        binaries = postgres.PostgresBinaries({int(settings["major"]): Path(settings["binaries"])})
        self._postgres = postgres.LocalPostgres(binaries, run_as=self._user)
        self._stores: dict[str, ObjectStore] = {FOLDER: FolderStore(FOLDER, Path(settings["folder"]))}
        if settings.get("bucket"):
            self._stores[BUCKET] = S3Store(BUCKET, **settings["bucket"], versioning_required=False)
        if settings.get("nats"):
            self._streams = JetStreamSnapshots(NatsServer(*settings["nats"]))

    async def serve(self, read: asyncio.StreamReader) -> None:
        """Until the other side is gone."""
        operator, escrow, signing = generate_age_key(), generate_age_key(), generate_signing_key()
        async with AsyncExitStack() as stack:
            sealer = await stack.enter_async_context(Sealer([operator.public, escrow.public]))
            opener = await stack.enter_async_context(Opener([operator.secret]))
            self._keys = KeyRing(sealer, Verifier([signing.public]), Signer(signing.secret), opener)
            for store in self._stores.values():
                stack.push_async_callback(store.close)
            self._say({})
            while line := await read.readline():
                self._say(await self._done(json.loads(line)))

    async def _done(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            match order["do"]:
                case "backup":
                    return await self._backup(order["location"])
                case "validate":
                    return await self._validate(order["point"], Path(order["scratch"]))
                case "restore":
                    return await self._restore(order["point"], Path(order["directory"]), int(order["port"]))
                case "backup-streams":
                    return await self._backup_streams(order["streams"])
                case "restore-streams":
                    return await self._restore_streams(order["point"])
                case "forget":
                    await self._catalogue(order["location"]).delete_point(GROUP, order["point"])
                    return {}
                case unknown:
                    raise ValueError(f"no such order: {unknown}")
        except Exception as error:  # noqa: BLE001 - the other side ends the run with these words
            return {"error": f"{type(error).__name__}: {error}"}

    def _say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)

    def _catalogue(self, location: str) -> Catalogue:
        return Catalogue([self._stores[location]], self._keys.verifier)

    async def _backup(self, location: str) -> dict[str, Any]:
        host, port = self._settings["login"]
        login = PostgresLogin(host, int(port), "postgres", "postgres", sslmode="disable")
        point_id = _point_id(BackupKind.PHYSICAL)
        return await self._write(location, point_id, self._postgres.physical_source(login, point_id))

    async def _backup_streams(self, streams: Sequence[str]) -> dict[str, Any]:
        source = self._streams.source(streams)
        return await self._write(FOLDER, _point_id(BackupKind.STREAMS), source, source.at_once)

    async def _write(
        self, location: str, point_id: str, source: AbstractAsyncContextManager[BackupSource], at_once: int = 1
    ) -> dict[str, Any]:
        identity = PointIdentity(
            point_id=point_id, group=GROUP, attempt=1, run_id=point_id, region="bench", started_at=datetime.now(UTC)
        )
        async with source as entered:
            written = await write_point(
                entered,
                identity=identity,
                stores=[self._stores[location]],
                sealer=self._keys.sealer,
                signer=self._keys.signing(),
                at_once=at_once,
            )
        return {"point": point_id, "stored": written.manifest.stored_bytes}

    async def _opened(self, point_id: str) -> tuple[RecoveryPoint, StoredPointReader]:
        catalogue = self._catalogue(FOLDER)
        point = await catalogue.point(GROUP, point_id)
        return point, open_point(catalogue.stores_of(point), point.manifest, self._keys.opening())

    async def _validate(self, point_id: str, scratch: Path) -> dict[str, Any]:
        _, reader = await self._opened(point_id)
        state, reason, _ = await self._postgres.validate(reader, scratch)
        if state is not VerdictState.VALID:
            raise RestoreFailed(f"{point_id} is {state}: {reason}")
        self._proven.add(point_id)
        return {}

    async def _restore(self, point_id: str, directory: Path, port: int) -> dict[str, Any]:
        _, reader = await self._opened(point_id)
        place = PostgresPlace(self._settings["login"][0], port, directory, self._user)
        options = RestoreOptions(f"restore-{point_id}", proven=point_id in self._proven)
        await self._postgres.restore_physical(reader, place, options)
        return {}

    async def _restore_streams(self, point_id: str) -> dict[str, Any]:
        point, reader = await self._opened(point_id)
        options = StreamRestoreOptions(f"restore-{point_id}")
        for part in point.manifest.jetstream.streams:
            stored = await stored_of(reader, part)
            await self._streams.restore(stored, reader.stream(archive_name(part.stream)), options)
        return {}


def _point_id(kind: BackupKind) -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{kind}-{secrets.token_hex(4)}"


async def _serve(answers: IO[str]) -> None:
    read = asyncio.StreamReader(limit=LINE)
    protocol = asyncio.StreamReaderProtocol(read)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await _Worker(json.loads(await read.readline()), answers).serve(read)


if __name__ == "__main__":
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as own:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what is logged is no answer
        asyncio.run(_serve(own))
