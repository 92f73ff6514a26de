"""The server's programs on this machine: redis-server, and redis-check-rdb, which is the same program by another name.

``main`` of Redis's ``src/server.c`` looks at the name by which it was called: a link of that name to any redis-server
is a redis-check-rdb of its version (Valkey: valkey-check-rdb, and both names).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.process import Child, clean_environment, run
from recovery.adapters.redis.rdb import DumpHead
from recovery.adapters.scratch_folder import remove_tree
from recovery.backup.bounded import opened, through, to_the_end
from recovery.domain.redis import Product, rdb_version_of, reads, server_name
from recovery.errors import Corrupt, NotFound, Unreachable

NAMES = ("redis-server", "valkey-server")
CHECK_SECONDS = 60.0  # for what is left to do after the last byte
_DETECTED = "--- RDB ERROR DETECTED ---"
_NO_MEMORY = re.compile(r"out of memory|failed allocating (\d+) bytes", re.IGNORECASE)
_LARGEST_STRING = 512 << 20  # a length beyond that was damaged
OLDEST = (6, 2)
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+\.\d+\S*)")


@dataclass(frozen=True)
class RedisProgram:
    path: Path
    product: Product
    version: str

    @property
    def rdb_version(self) -> int:
        """The newest that it reads, and the one that it writes."""
        return rdb_version_of(self.product, self.version)

    @property
    def name(self) -> str:
        return server_name(self.product, self.version)

    def loads(self, head: DumpHead) -> bool:
        return reads(self.product, self.rdb_version, head.rdb_version)


def found_program() -> Path | None:
    """Beside our interpreter, else on the PATH."""
    for name in NAMES:
        path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        if path:
            return Path(path)
    return None


async def redis_program(configured: Path | None = None) -> RedisProgram:
    """Raises NotFound: there is none, or it is something else."""
    path = configured or await asyncio.to_thread(found_program)
    if path is None:
        raise NotFound(
            "Neither redis-server nor valkey-server is installed on this machine, and a dump can only be loaded by one:"
            " install the package redis-server, or name its path."
        )
    try:
        answer = await run([path, "--version"], environment=clean_environment(), timeout=20)
    except (OSError, TimeoutError) as error:
        raise NotFound(f"{path} cannot be run: {str(error) or type(error).__name__}.") from error
    match = _VERSION.search(answer.stdout)
    if match is None:
        raise NotFound(f"{path} is no redis-server and no valkey-server: it says {answer.stdout.strip()[:100]!r}.")
    program = RedisProgram(path, "valkey" if match[1] == "Valkey" else "redis", match[2])
    if tuple(int(part) for part in match[2].split(".")[:2]) < OLDEST:
        raise NotFound(f"{path} is {program.name}: 6.2 is the oldest that is supported.")
    return program


def check_judged(name: str, code: int, output: str) -> None:
    """One that this machine ended, or gave no memory, has said nothing about the dump.

    Args:
        name: of a server or a checker.
        code: with which it ended, negative a signal.

    Raises Unreachable.
    """
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        raise Unreachable(f"{name} was ended by signal {-code}: has this machine memory enough?")
    short = _NO_MEMORY.search(output)
    if code != 0 and short is not None and int(short[1] or 0) <= _LARGEST_STRING:
        raise Unreachable(f"{name} got no more memory: this machine has too little of it for the dump.")


class DumpChecker:
    """redis-check-rdb, fed with a dump while it passes by: it needs no file."""

    def __init__(self, child: Child, name: str) -> None:
        self._child = child
        self._name = name
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(2)
        self._feeding = asyncio.create_task(child.feed(self._chunks()))
        self._output = asyncio.create_task(self._read())

    async def feed(self, data: bytes) -> None:
        """Waits while the checker is busy. After its end, which ``finish`` judges, the data are dropped."""
        await self._put(data)

    async def finish(self) -> str:
        """Its last words.

        Raises:
            Corrupt: the dump is damaged, in the checker's words.
            Unreachable: this machine ended the checker, or has too little memory for it.
            TimeoutError: it came to no end.
        """
        await self._put(None)
        async with asyncio.timeout(CHECK_SECONDS):
            await self._feeding
            output = await self._output
            code = await self._child.wait()
        lines = [line for line in output.splitlines() if line.strip()]
        check_judged(self._name, code, output + self._child.stderr)
        if code != 0:
            after = lines.index(_DETECTED) + 1 if _DETECTED in lines else -1
            said = lines[after] if lines else f"it ended with {code}"
            raise Corrupt(f"{self._name} found it damaged: {said}")
        counted = [line.partition("]")[2].strip() for line in lines if re.search(r"\[info\] \d+ ", line)]
        no_sum = ["no checksum"] if "checksum disabled" in output else []
        return ", ".join([*counted, *no_sum])

    async def end(self) -> None:
        for task in (self._feeding, self._output):
            task.cancel()
        await asyncio.gather(self._feeding, self._output, return_exceptions=True)

    async def _put(self, data: bytes | None) -> None:
        putting = asyncio.ensure_future(self._queue.put(data))
        try:
            await asyncio.wait({putting, self._feeding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (data := await self._queue.get()) is not None:
            yield data

    async def _read(self) -> str:
        output = bytearray()
        async for data in self._child.chunks():
            output += data
            del output[: -(64 << 10)]
        return output.decode(errors="replace")


@contextlib.asynccontextmanager
async def dump_checker(program: RedisProgram) -> AsyncIterator[DumpChecker]:
    """Running; ended with the context."""
    name = "redis-check-rdb" if program.product == "redis" else "valkey-check-rdb"
    folder = await opened(lambda: Path(tempfile.mkdtemp(prefix="recovery-plans-")), remove_tree)
    try:
        link = folder / name
        link.symlink_to(program.path.resolve())
        async with Child([link, "/dev/stdin"], environment=clean_environment(), stdin=True) as child:
            checker = DumpChecker(child, name)
            try:
                yield checker
            finally:
                await to_the_end(checker.end())
    finally:
        await through(remove_tree, folder)
