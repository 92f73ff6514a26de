"""What a search engine of the tests holds, and the bodies of its answers."""

from __future__ import annotations

import base64
import itertools
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

USER, PASSWORD = "recovery", "search-password"
BYTES = 1000  # of a shard's files for each operation
_CLOCK = itertools.count(1_780_000_000_000, 1000)


class Said(Exception):
    def __init__(self, status: int, kind: str, reason: str) -> None:
        self.answer = JSONResponse(
            {
                "error": {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason},
                "status": status,
            },
            status,
        )


@dataclass
class Index:
    shards: list[int]  # operations of each
    aliases: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    closed: bool = False
    uuid: str = field(default_factory=lambda: secrets.token_hex(8))
    looks: int = 0  # so many looks until its primaries serve
    failed: bool = False  # its restore
    replicas: int = 0
    restored: bool = False  # a restored one is called yellow until its primaries serve, or one has failed
    unseen: int = 0  # written, and not refreshed yet

    @property
    def status(self) -> str:
        if not self.serves:
            return "yellow" if self.restored and not self.failed else "red"
        return "yellow" if self.replicas else "green"

    @property
    def serves(self) -> bool:
        return self.looks <= 0 and not self.failed

    def copy(self) -> Index:
        return Index(list(self.shards), dict(self.aliases), dict(self.settings), self.closed, replicas=self.replicas)


@dataclass
class Snapshot:
    name: str
    indices: dict[str, Index]
    data_streams: dict[str, list[str]]
    version: str
    global_state: bool
    metadata: Any
    looks: int
    state: str = "SUCCESS"  # once the looks are over
    failures: list[dict[str, Any]] = field(default_factory=list)
    new_bytes: int = 0
    began: int = field(default_factory=lambda: next(_CLOCK))
    uuid: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def shards(self) -> int:
        return sum(len(index.shards) for index in self.indices.values())

    @property
    def bytes(self) -> int:
        return sum(sum(index.shards) * BYTES for index in self.indices.values())


def failing(state: str, shards: int) -> Callable[[Snapshot], None]:
    """What a snapshot of ``Cluster.outcome`` ends as."""

    def outcome(snapshot: Snapshot) -> None:
        snapshot.state = state
        snapshot.failures = [
            {"index": "orders", "shard_id": number, "reason": "IOException[disk]", "node_id": "node-id", "status": "X"}
            for number in range(shards)
        ]

    return outcome


@dataclass
class Disk:
    """Snapshots by place and name."""

    places: dict[str, dict[str, Snapshot]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)


def described(snapshot: Snapshot) -> dict[str, Any]:
    snapshot.looks -= 1
    going = snapshot.looks >= 0
    failed = 0 if going else len(snapshot.failures)
    return {
        "snapshot": snapshot.name, "uuid": snapshot.uuid, "version": snapshot.version,
        "indices": list(snapshot.indices), "data_streams": list(snapshot.data_streams),
        "include_global_state": snapshot.global_state, "state": "IN_PROGRESS" if going else snapshot.state,
        "start_time_in_millis": snapshot.began, "end_time_in_millis": 0 if going else snapshot.began + 500,
        "failures": [] if going else snapshot.failures,
        "shards": {"total": 0 if going else snapshot.shards, "failed": failed},
        **({"metadata": snapshot.metadata} if snapshot.metadata else {}),
    }  # fmt: skip


def status_of(snapshot: Snapshot) -> dict[str, Any]:
    done = 0 if snapshot.looks > 0 else snapshot.shards
    return {"snapshots": [{
        "state": "STARTED", "shards_stats": {"done": done, "failed": 0, "total": snapshot.shards},
        "stats": {
            "incremental": {"file_count": 3, "size_in_bytes": snapshot.new_bytes},
            "processed": {"file_count": 1, "size_in_bytes": snapshot.new_bytes // 2},
            "total": {"file_count": 3, "size_in_bytes": snapshot.bytes},
        },
    }]}  # fmt: skip


def rename(name: str, body: Any, backing: bool) -> str:
    if "rename_pattern" not in body:
        return name
    prefix = ".ds-" if backing else ""
    replacement = re.sub(r"\$(\d)", r"\\g<\1>", body["rename_replacement"])
    return prefix + re.sub(body["rename_pattern"], replacement, name.removeprefix(prefix))


def stats(index: Index) -> dict[str, Any]:
    return {
        "uuid": index.uuid,
        "primaries": {"docs": {"count": sum(index.shards) - index.unseen, "deleted": 0}},
        "shards": {
            str(number): [
                {"routing": {"primary": True}, "seq_no": {"max_seq_no": count - 1, "global_checkpoint": count - 1}},
                *[{"routing": {"primary": False}, "seq_no": {"max_seq_no": -1, "global_checkpoint": -1}}]
                * index.replicas,
            ]
            for number, count in enumerate(index.shards)
        },
    }


def recovery(index: Index) -> dict[str, Any]:
    return {"shards": [
        {"type": "SNAPSHOT", "primary": True, "stage": "INDEX", "index": {"size": {
            "total_in_bytes": count * BYTES, "recovered_in_bytes": count * BYTES if index.serves else 0,
        }}}
        for count in index.shards
    ]}  # fmt: skip


def refusal(request: Request) -> Response | None:
    expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    given = request.headers.get("authorization")
    if given == expected:
        return None
    words = (
        f"unable to authenticate with {base64.b64decode((given or ' ').split()[-1]).decode()}" if given else "missing"
    )
    return Said(401, "security_exception", words).answer


def filtered(value: Any, paths: list[str]) -> Any:
    """As a server's ``filter_path``: ``*`` is one level, and lists are looked through."""
    if isinstance(value, list):
        kept = [filtered(each, paths) for each in value]
        return [each for each in kept if each not in ({}, [])]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        rests = [path.partition(".")[2] for path in paths if path.partition(".")[0] in (name, "*")]
        if "" in rests:
            found[name] = inner
        elif rests and isinstance(inner, (dict, list)) and (kept := filtered(inner, rests)):
            found[name] = kept
    return found


def no_json() -> Response:
    return PlainTextResponse("<html>a proxy's page</html>")
