"""A region's streams as mirrors of the owner's, and what is kept of the owner for the day that it is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nats.aio.client import Client

from recovery.adapters.diverged_folder import DivergedFolders
from recovery.adapters.nats.connection import LOST, ApiError, NatsServer, api, cluster_of, connected, stream_info
from recovery.adapters.nats.consumers import positions
from recovery.adapters.nats.divergence import SavedTail, last_common, save_tail
from recovery.adapters.nats.memory import Source
from recovery.adapters.nats.streams import as_mirror, is_work_queue, mirrors_domain
from recovery.adapters.nats.words import Infos, last_of
from recovery.errors import Refused

log = logging.getLogger(__name__)


async def domain_of(client: Client) -> str:
    """The JetStream domain of the server that the client is connected to. Raises Refused where it has none."""
    domain = (await api(client, "INFO")).get("domain")
    if not domain:
        raise Refused(
            "The owner's NATS has no JetStream domain, so its streams cannot be named from another region: say"
            " jetstream { domain: ... } in its configuration."
        )
    return str(domain)


async def sources(owner: Client, streams: list[str]) -> dict[str, Source]:
    """The streams at their owner, with their consumers. One that is a mirror there, or missing, is left out."""
    found: dict[str, Source] = {}
    for name, info in zip(streams, await asyncio.gather(*(stream_info(owner, name) for name in streams)), strict=True):
        if info is None or info["config"].get("mirror"):
            continue
        state = info["state"]
        consumers = [] if is_work_queue(info["config"]) else await positions(owner, name)
        found[name] = Source(info["config"], int(state["last_seq"]), int(state["messages"]), consumers)
    return found


async def make_mirror(own: Client, source: Source, domain: str, replicas: int | None = None) -> None:
    """Raises Refused for a work queue, ApiError, and what a connection raises."""
    if replicas is None:
        replicas = int(source.config.get("num_replicas") or 1) if cluster_of(own) else 1
    config = as_mirror(source.config, domain, replicas)
    await api(own, f"STREAM.CREATE.{config['name']}", config)


async def follow_one(
    own: Client, owner: Client, source: Source, domain: str, aside: DivergedFolders
) -> SavedTail | None:
    """Makes one local stream a mirror of ``source``; None where it was one already, or did not exist.

    A local stream is deleted for it, after the messages were saved that the owner lacks.

    Raises Refused where the owner holds less than both have in common: its data were lost, and ours are not given up.
    """
    name = source.config["name"]
    local = await stream_info(own, name)
    if local is None:
        await make_mirror(own, source, domain)
        return None
    if mirrors_domain(local["config"]) == domain:
        return None
    other = await stream_info(owner, name)
    if other is None:
        raise Refused(f"Stream {name} vanished at its owner in the middle.")
    if int(other["state"]["last_seq"]) == 0 < int(local["state"]["last_seq"]):
        raise Refused(
            f"Stream {name} at its owner has never had a message, and here it has {local['state']['messages']}: it was"
            " made anew there. Promote this region, restore a recovery point there, or delete the stream here."
        )
    saved = await save_tail(own, local, await last_common(own, owner, local, other), aside)
    await api(own, f"STREAM.DELETE.{name}")
    await make_mirror(own, source, domain, int(local["config"].get("num_replicas") or 1))
    return saved


async def mirrored(peer: NatsServer, streams: list[str]) -> dict[str, int] | None:
    """How far another region's mirrors are; None where it does not answer within a second, or has not all of them."""
    try:
        async with asyncio.timeout(1.0), connected(peer) as client:
            found = await asyncio.gather(*(stream_info(client, name) for name in streams))
    except (*LOST, ApiError) as error:
        log.debug("NATS %s does not say how far it is: %s", peer, error)
        return None
    if any(info is None or not info["config"].get("mirror") for info in found):
        return None
    return {name: last_of(info) for name, info in zip(streams, found, strict=True)}


def seconds_behind(owner: dict[str, Any], local: dict[str, Any]) -> float:
    """By the times of the last messages, which a mirror keeps; both are the owner's clock."""
    if int(local["state"]["last_seq"]) >= int(owner["state"]["last_seq"]):
        return 0.0
    newest, ours = (_instant(each["state"]["last_ts"]) for each in (owner, local))
    return max(0.0, (newest - ours).total_seconds())


async def lag_of(owner: Client, infos: Infos, seen: Mapping[str, Source]) -> float | None:
    """Seconds that the slowest mirror is behind; None where there is none."""
    lags = []
    for name, source in seen.items():
        local = infos[name]
        if is_work_queue(source.config) or local is None:
            continue
        if source.last <= last_of(local):
            lags.append(0.0)
        elif (info := await stream_info(owner, name)) is not None:
            lags.append(seconds_behind(info, local))
    return max(lags) if lags else None


async def leave_queue(own: Client, name: str, aside: DivergedFolders) -> SavedTail | None:
    """An old work queue: what waits in it is saved, and is not given to workers a second time one day."""
    info = await stream_info(own, name)
    if info is None:
        return None
    saved = await save_tail(own, info, 0, aside)
    await api(own, f"STREAM.DELETE.{name}")
    return saved


def _instant(text: str) -> datetime:
    """RFC 3339 with nanoseconds, which datetime does not know."""
    whole, dot, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}+00:00" if dot else f"{whole}+00:00")
