"""A child process that has ended already."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass
class FakeChild:
    """``code``: with which it ended, negative a signal. It takes what it is fed, and has written ``output``."""

    code: int
    output: str = ""
    stderr: str = ""

    async def feed(self, data: AsyncIterator[bytes]) -> bool:
        async for _ in data:
            pass
        return True

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.output.encode()

    async def wait(self) -> int:
        return self.code
