"""Mirrors become sources: what a promotion does to the streams, while nobody can publish into them."""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client

from recovery.adapters.nats.connection import NatsServer, api
from recovery.adapters.nats.consumers import recreate
from recovery.adapters.nats.memory import Remembered, Source
from recovery.adapters.nats.streams import is_work_queue, promoted, settle
from recovery.adapters.nats.words import Infos, last_of, promised_words
from recovery.errors import Refused


async def promote_streams(
    client: Client, server: NatsServer, infos: Infos, remembered: Remembered, epoch: int
) -> list[str]:
    """Everything but the fence. Repeated, it goes on where it was. Returns what people should know, in sentences.

    Raises Refused for a stream whose source was never seen, ApiError, and what a connection raises.
    """
    notes: list[str] = []
    for name, info in infos.items():
        source = remembered.sources.get(name)
        config = source.config if source else None
        if info is None:
            notes.append(await _make_anew(client, server, name, source))
            continue
        was_mirror = bool(info["config"].get("mirror"))
        await promoted(client, info, config, epoch)
        if source is None:
            continue
        standing, complaints = await recreate(client, name, source.consumers, last_of(info))
        notes += complaints
        if sentence := await settle(client, name, config, len(standing)):
            notes.append(sentence)
        if was_mirror or standing:
            notes.append(promised_words(name, standing, last_of(info), source))
    notes.append(
        "Message ids (Nats-Msg-Id) of before the promotion are not known here: what is published again is stored again"
    )
    return notes


async def _make_anew(client: Client, server: NatsServer, name: str, source: Source | None) -> str:
    """A stream without a mirror: a work queue begins empty, so that the application works."""
    if source is None or not is_work_queue(source.config):
        raise Refused(f"NATS {server} has no stream {name}, and its guard never saw its source: nothing to promote.")
    config: dict[str, Any] = {
        key: value for key, value in source.config.items() if key not in ("placement", "num_replicas")
    }
    config["metadata"] = {k: v for k, v in (config.get("metadata") or {}).items() if not k.startswith("_nats.")}
    await api(client, f"STREAM.CREATE.{name}", config | {"first_seq": source.last + 1})
    return f"{name} is a work queue and begins empty: {source.waiting} messages waited in it when it was last seen"
