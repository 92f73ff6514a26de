"""A stream of buffers of any size becomes chunks of one size."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator


async def fixed_chunks(buffers: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Chunks of exactly ``size`` bytes, the last one shorter. An empty stream gives one empty chunk.

    An empty artefact thereby has an object too, and so can be found and opened by hand like any other.
    """
    parts: list[memoryview] = []  # joined once: a buffer that grows would copy every byte twice
    held, produced = 0, False
    async for buffer in buffers:
        view = memoryview(buffer)
        while view:
            taken = view[: size - held]
            parts.append(taken)
            held += len(taken)
            view = view[len(taken) :]
            if held == size:
                whole = [b"".join(parts)]
                parts.clear()
                held, produced = 0, True
                yield whole.pop()  # nothing here keeps it alive
    if parts or not produced:
        yield b"".join(parts)
