"""Streams as sources and as mirrors of one another, and how the one becomes the other.

A mirror keeps the sequences of its source. It is promoted by updating its configuration twice: without ``mirror`` (both
at once is refused), then with the source's subjects. The way back does not exist: an old source is deleted and made
again as a mirror, after what it alone holds was saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client

from recovery.adapters.nats.connection import ApiError, api, stream_info
from recovery.errors import Refused

HISTORY = "recovery-history"
"""Key in a stream's metadata: ``<epoch>@<last sequence before it>``, one for each time that it was promoted."""

Config = dict[str, Any]

_MIRRORED = (
    *("max_msgs", "max_bytes", "max_age", "max_msg_size", "max_msgs_per_subject", "max_consumers", "discard"),
    *("storage", "compression", "allow_direct", "allow_msg_ttl", "description"),
)
"""Settings that a mirror has from its source; the others come with the promotion, or must not be on a mirror."""

_NEVER_COPIED = ("name", "storage", "num_replicas", "placement", "mirror", "sources", "first_seq", "template_owner")

WORK_QUEUE = (
    "stream {name} is a work queue: a mirror of it would consume its messages like any worker, and empty it. Make it"
    " an interest or limits stream, or accept that what waits in it is left behind at a failover"
)


def is_work_queue(config: Mapping[str, Any]) -> bool:
    return config.get("retention") == "workqueue"


def mirrors_domain(config: Mapping[str, Any]) -> str | None:
    """The JetStream domain whose stream it mirrors; None for a stream that is no mirror, empty without a domain."""
    mirror = config.get("mirror")
    if not mirror:
        return None
    prefix = str((mirror.get("external") or {}).get("api", ""))
    return prefix.removeprefix("$JS.").removesuffix(".API") if prefix else ""


def as_mirror(source: Mapping[str, Any], domain: str, replicas: int) -> Config:
    """Configuration of a mirror of ``source``, which lives in the JetStream domain ``domain``.

    Raises Refused for a work queue.
    """
    if is_work_queue(source):
        raise Refused(WORK_QUEUE.format(name=source["name"]))
    return {key: source[key] for key in _MIRRORED if source.get(key)} | {
        "name": source["name"],
        "retention": "limits",
        "num_replicas": replicas,
        "metadata": _own_metadata(source),
        "mirror": {"name": source["name"], "external": {"api": f"$JS.{domain}.API"}},
    }


def _own_metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """Without what the server itself wrote there."""
    return {key: value for key, value in (config.get("metadata") or {}).items() if not key.startswith("_nats.")}


def history(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(epoch, last sequence before it), oldest first; empty where it was never promoted by a guard."""
    found = []
    for entry in str((config.get("metadata") or {}).get(HISTORY, "")).split(","):
        epoch, _, sequence = entry.strip().partition("@")
        if epoch.isdigit() and sequence.isdigit():
            found.append((int(epoch), int(sequence)))
    return found


def fork(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> int | None:
    """The last sequence that both streams have in common by their histories; None where these say nothing.

    Where they leave each other, the earlier of the two promotions counts: what came later is somebody's own.
    """
    own, other = history(ours), history(theirs)
    common = 0
    while common < min(len(own), len(other)) and own[common] == other[common]:
        common += 1
    if common == 0 and own and other:
        return None
    following = [entries[common][1] for entries in (own, other) if len(entries) > common]
    return min(following) if following else None


async def promoted(client: Client, info: Mapping[str, Any], source: Mapping[str, Any] | None, epoch: int) -> list[str]:
    """Makes the stream of ``info`` a source with the settings of ``source``. Returns what is to be said about it.

    An interest stream begins as a limits one: without its consumers it would drop everything; see ``settle``.

    Raises Refused where nobody knows its subjects; ApiError.
    """
    config: Config = dict(info["config"])
    name, last = config["name"], int(info["state"]["last_seq"])
    entries = history(config)
    if config.get("mirror"):
        if source is None:
            raise Refused(
                f"Stream {name} is a mirror and its guard has not seen its source yet, so its subjects are not known:"
                f" promote it by hand (nats stream edit {name}), or wait until the source was seen."
            )
        if len(history(source)) > len(entries):
            entries = history(source)
        config.pop("mirror")
        config = (await api(client, f"STREAM.UPDATE.{name}", config))["config"]
        wanted = {key: value for key, value in source.items() if key not in _NEVER_COPIED}
        config = config | wanted | {"retention": "limits"}
    if not entries or (info["config"].get("mirror") and entries[-1][0] < epoch):
        entries = [*entries, (epoch, last)]
    config["metadata"] = _own_metadata(config) | {HISTORY: ",".join(f"{number}@{before}" for number, before in entries)}
    await api(client, f"STREAM.UPDATE.{name}", config)
    return []


async def settle(client: Client, name: str, source: Mapping[str, Any] | None, consumers: int) -> str:
    """Gives a promoted interest stream its retention back, once its consumers stand. Returns a sentence, or nothing."""
    if source is None or source.get("retention") != "interest":
        return ""
    info = await stream_info(client, name)
    if info is None or info["config"]["retention"] == "interest":
        return ""
    if consumers == 0:
        return f"{name} stays a limits stream: without a consumer an interest stream drops everything"
    try:
        await api(client, f"STREAM.UPDATE.{name}", info["config"] | {"retention": "interest"})
    except ApiError as error:
        return f"{name} stays a limits stream ({error})"
    return f"{name} holds again what its source had dropped as read already, until its consumers pass it"
