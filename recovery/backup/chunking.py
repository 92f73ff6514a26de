"""A stream of buffers of any size becomes chunks of one size."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator


async def fixed_chunks(buffers: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Chunks of exactly ``size`` bytes, the last one shorter. An empty stream gives one empty chunk.

    An empty artefact thereby has an object too, and so can be found and opened by hand like any other.
    """
    pending = bytearray()
    produced = False
    async for buffer in buffers:
        view = memoryview(buffer)
        while view:
            taken = view[: size - len(pending)]
            pending += taken
            view = view[len(taken) :]
            if len(pending) == size:
                yield bytes(pending)
                pending.clear()
                produced = True
    if pending or not produced:
        yield bytes(pending)
