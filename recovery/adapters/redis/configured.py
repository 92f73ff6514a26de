"""Whether a Redis would start at rest: what its configuration file says, which nobody may have rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from recovery.adapters.redis.connection import RedisServer
from recovery.errors import Refused

LINE = "replicaof 127.0.0.1 1"


async def starts_at_rest(server: RedisServer, config_file: str, pids: Sequence[int]) -> None:
    """Raises Refused where the next start would be a primary's, or where nobody can tell."""
    if not config_file:
        raise Refused(f"Redis {server} runs without a configuration file: start it with one that says {LINE!r}.")
    root = Path(f"/proc/{pids[0]}/root") if pids else Path("/")
    path = root / Path(config_file).relative_to("/")
    found = await asyncio.to_thread(_upstream, path)
    if found is None or found[:1] == ["no"]:
        raise Refused(
            f"Redis {server} would start as a primary: its configuration {config_file} must say {LINE!r}. Was it"
            " rewritten (CONFIG REWRITE) while it was one?"
        )


def _upstream(path: Path) -> list[str] | None:
    """The last ``replicaof``; included files are not read: the line belongs into the main one, at its end."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise Refused(
            f"The configuration {path} cannot be read ({error.strerror}), so nobody knows how it starts."
        ) from error
    found = None
    for line in lines:
        words = line.split()
        if words and words[0].lower() in ("replicaof", "slaveof"):
            found = [word.strip("\"'").lower() for word in words[1:]]
    return found
