"""Redis servers of one's own for a test: configured to rest, restarted, frozen and killed at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.packages import redis_server
from lab.processes import die_with
from recovery.adapters.redis.connection import LOST, RedisLogin, RedisServer, ServerSaid, connected
from recovery.errors import Unreachable
from recovery.ports.guard import GuardedStore
from tests.ports import free_port

PASSWORD = "a-password-of-the-test"
RIGHTS = (
    "+psync +replconf +ping +info +role +replicaof +config|get +config|set +client +bgsave +time"  # docs
    " +set +get +dbsize"  # the application's
)


def limit(seconds: float) -> float:
    """A limit that an idle machine keeps; a crowded one (more than two processes for each processor) gets three times
    as much, which still tells a demotion from a hang."""
    return seconds if os.getloadavg()[0] <= 2 * (os.cpu_count() or 1) else 3 * seconds


async def demoted(store: GuardedStore) -> tuple[str | None, float]:
    """Demotes as a guard does, again until it is confirmed. Returns the position and the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            return await store.demote(), time.monotonic() - began
        except Unreachable:
            assert time.monotonic() - began < 10


@dataclass
class OwnRedis:
    """A redis-server in a folder of its own."""

    folder: Path
    append_only: bool = True
    password: str | None = PASSWORD
    user: str | None = None  # None: the default one, who may do everything
    lines: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> RedisServer:
        return RedisServer("127.0.0.1", self.port, RedisLogin(self.user, self.password))

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "redis.conf"
        secret = f"requirepass {self.password}\nmasterauth {self.password}\n" if self.password else ""
        if self.user is not None:
            secret = f"user {self.user} on >{self.password} ~* &* {RIGHTS}\nuser default off\n"
        configuration.write_text(
            f'bind 127.0.0.1\nport {self.port}\n{secret}dir {self.folder}\nsave ""\nreplicaof 127.0.0.1 1\n'
            f"appendonly {'yes' if self.append_only else 'no'}\n" + "\n".join(self.lines) + "\n"
        )
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [str(redis_server()), str(configuration)],
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with(os.getpid()),
            )
        await self.wait_for("PING", expected="PONG")

    def forget(self) -> None:
        """What a lost disk does."""
        for path in (*self.folder.glob("*.rdb"), *self.folder.glob("*.aof")):
            path.unlink()

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
                self.process.send_signal(signal.SIGCONT)
            self.process.wait(10)
            self.process = None

    async def ask(self, *words: str | int) -> Any:
        async with asyncio.timeout(5), connected(self.server) as connection:
            return await connection.run(*words)

    async def wait_for(self, *words: str | int, expected: object, seconds: float = 10.0) -> None:
        until = time.monotonic() + seconds
        answer: object = None
        while time.monotonic() < until:
            try:
                if (answer := await self.ask(*words)) == expected:
                    return
            except (*LOST, ServerSaid) as error:
                answer = error
            await asyncio.sleep(0.02)
        raise AssertionError(f"{words} answered {answer!r} and not {expected!r} within {seconds} s")

    async def fill(self, keys: int, prefix: str = "key") -> None:
        async with asyncio.timeout(20), connected(self.server) as connection:
            replies = await connection.pipeline([("SET", f"{prefix}:{number}", number) for number in range(keys)])
            assert set(replies) == {"OK"}, replies[:1]


@contextlib.contextmanager
def own_redis(*servers: OwnRedis) -> Iterator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.end()
