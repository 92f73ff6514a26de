"""What a Redis is doing, in words for people."""

from __future__ import annotations

from recovery.adapters.redis.memory import Remembered
from recovery.adapters.redis.replication import Replication


def state_words(now: Replication, remembered: Remembered) -> str:
    if now.is_primary:
        return f"{now.keys} keys, {sum(each.online for each in now.replicas)} replicas"
    if not now.read_only:
        return "a replica that accepts writes: replica-read-only is off"
    if now.link_up:
        return f"{now.keys} keys, follows {now.upstream}"
    if remembered.detached:
        return f"{now.keys} keys, detached: {remembered.detached}"
    if now.at_rest:
        return f"{now.keys} keys, at rest"
    return f"{now.keys} keys, {'is being copied from' if now.syncing else 'no link to'} {now.upstream}"
