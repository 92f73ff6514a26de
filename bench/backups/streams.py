"""JetStream: a stream of many small messages, backed up and restored by ours, by the ``nats`` command, and by the
common script, which consumes and publishes message by message."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.backups.data import HOST, free_port
from bench.backups.measuring import Work, bytes_below, command
from lab.packages import script
from lab.processes import die_with
from recovery.adapters.nats.connection import LOST, NatsServer, api, connected, stream_info

STREAM = "ORDERS"
SUBJECT = "orders.placed"
MESSAGE_BYTES = 200  # half of them random
READY_SECONDS = 20.0
MESSAGE_SECONDS = 10.0
_CONFIGURATION: dict[str, Any] = {"name": STREAM, "subjects": ["orders.>"], "storage": "file", "num_replicas": 1}


@dataclass(frozen=True)
class JetStream:
    """A server of its own, and the scripts. All of them leave what they write in ``folder``."""

    server: NatsServer
    pid: int
    folder: Path

    async def fill(self, messages: int) -> None:
        """The stream, and a consumer that stands in the middle of it."""
        chosen = random.Random(messages)
        half = MESSAGE_BYTES // 4  # in hexadecimal digits: MESSAGE_BYTES // 2
        text = ("an order of a customer who pays by transfer, " * 4)[: MESSAGE_BYTES - 2 * half]
        async with connected(self.server) as client:
            await api(client, f"STREAM.CREATE.{STREAM}", _CONFIGURATION, MESSAGE_SECONDS)
            for number in range(messages):
                await client.publish(SUBJECT, f"{text}{chosen.randbytes(half).hex()}".encode())
                if number % 1000 == 0:
                    await client.flush(30)
            await client.flush(30)
            await self._until_holding(client, messages)
            await client.jetstream().pull_subscribe("orders.>", durable="shipping")

    async def _until_holding(self, client: Any, messages: int) -> None:
        async with asyncio.timeout(60):
            while True:
                info = await stream_info(client, STREAM)
                if info is not None and int(info["state"]["messages"]) == messages:
                    return
                await asyncio.sleep(0.05)

    async def remove(self) -> None:
        """The stream."""
        async with connected(self.server) as client:
            await api(client, f"STREAM.DELETE.{STREAM}", timeout=30.0)

    async def holds(self, messages: int) -> None:
        """Raises TimeoutError: the stream has another number of messages."""
        async with connected(self.server) as client:
            await self._until_holding(client, messages)

    # The common script.

    @property
    def _lines(self) -> Path:
        return self.folder / "messages.jsonl"

    async def consume(self, messages: int) -> Work:
        """Each message is asked for, written as a line of JSON, and acknowledged before the next one."""
        began = time.process_time()
        async with connected(self.server) as client:
            consumer = await client.jetstream().pull_subscribe("orders.>", durable="backup")
            with self._lines.open("w") as lines:
                for _ in range(messages):
                    (message,) = await consumer.fetch(1, timeout=MESSAGE_SECONDS)
                    body = base64.b64encode(message.data).decode()
                    lines.write(json.dumps({"subject": message.subject, "data": body}) + "\n")
                    await message.ack()
            await client.flush(30)
            await client.jetstream().delete_consumer(STREAM, "backup")
        return Work(time.process_time() - began, self._lines.stat().st_size)

    async def publish(self) -> Work:
        """Each line is published, and the next one when it was acknowledged."""
        began = time.process_time()
        async with connected(self.server) as client:
            await api(client, f"STREAM.CREATE.{STREAM}", _CONFIGURATION, MESSAGE_SECONDS)
            jetstream = client.jetstream()
            with self._lines.open() as lines:
                for line in lines:
                    message = json.loads(line)
                    data = base64.b64decode(message["data"])
                    await jetstream.publish(message["subject"], data, timeout=MESSAGE_SECONDS)
        return Work(time.process_time() - began)

    # The nats command.

    @property
    def _folder_of_command(self) -> Path:
        return self.folder / "command"

    async def backup_with(self, nats: Path) -> Work:
        shutil.rmtree(self._folder_of_command, ignore_errors=True)
        spent = await self._command(nats, "stream", "backup", STREAM, self._folder_of_command, "--no-progress")
        return Work(spent, bytes_below(self._folder_of_command))

    async def restore_with(self, nats: Path) -> Work:
        return Work(await self._command(nats, "stream", "restore", self._folder_of_command, "--no-progress"))

    async def _command(self, nats: Path, *arguments: str | Path) -> float:
        own = {"HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)}  # nobody's contexts
        return await command([nats, "--server", f"nats://{self.server}", *arguments], environment=own)


@contextlib.asynccontextmanager
async def jetstream(folder: Path) -> AsyncIterator[JetStream]:
    """A running server without streams, in an empty folder; it is gone afterwards."""
    port = free_port()
    configuration = folder / "nats.conf"
    configuration.write_text(f'listen: {HOST}:{port}\njetstream {{ store_dir: "{folder}/store" }}\n')
    with (folder / "nats.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [script("nats-server"), "-c", configuration],
            stdout=log,
            stderr=log,
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - two system calls, no locks
        )
    try:
        made = JetStream(NatsServer(HOST, port), process.pid, folder)
        await _until_ready(made.server)
        yield made
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def _until_ready(server: NatsServer) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                async with connected(server) as client:
                    await api(client, "INFO")
                    return
            except LOST:
                await asyncio.sleep(0.05)
