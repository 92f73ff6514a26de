"""Elasticsearch and OpenSearch as far as snapshots need them, with the answers that 8.17 and 2.19 give, over real HTTP.

Clusters share a ``Disk``: what one writes into a repository there, the others see. Documents are counted, not kept: a
shard is the number of operations that it has seen.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from recovery.adapters.search.marks import MARK
from recovery.domain.search import SearchProduct
from tests.contract.search_answers import (
    Disk,
    Index,
    Said,
    Snapshot,
    described,
    filtered,
    recovery,
    refusal,
    rename,
    stats,
    status_of,
)
from tests.contract.serving import serving

LONGEST_LINE = 4096


@dataclass
class Cluster:
    """``outcome`` changes a snapshot that begins; ``answers`` overrules whole answers by ``METHOD path``."""

    name: str
    disk: Disk
    product: SearchProduct = SearchProduct.OPENSEARCH
    version: str = "2.19.1"
    uuid: str = field(default_factory=lambda: secrets.token_hex(8))
    indices: dict[str, Index] = field(default_factory=dict)
    data_streams: dict[str, list[str]] = field(default_factory=dict)
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    snapshot_looks: int = 1
    restore_looks: int = 2
    outcome: Callable[[Snapshot], None] = lambda snapshot: None
    written_meanwhile: Mapping[str, int] = field(default_factory=dict)  # into each shard while a snapshot is taken
    free: int = 1 << 40
    answers: dict[str, Response] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)  # "METHOD path" done and not answered, once
    protected: bool = False
    has_s3: bool = False
    unwanted: str | None = None  # why no node takes what is restored
    asked: list[str] = field(default_factory=list)
    bodies: dict[str, Any] = field(default_factory=dict)

    # -- every request ------------------------------------------------------------------------------------------------

    async def handle(self, request: Request) -> Response:
        line = f"{request.method} {request.url.path}"
        raw = str(request.scope["raw_path"].decode()) + "?" + str(request.scope["query_string"].decode())
        self.asked.append(line)
        if len(raw) + len(request.method) + 10 > LONGEST_LINE:
            return Said(400, "too_long_http_line_exception", "An HTTP line is larger than 4096 bytes.").answer
        if self.protected and (refused := refusal(request)):
            return refused
        if line in self.answers:
            return self.answers[line]
        body = json.loads(await request.body() or b"null")
        self.bodies[line] = body
        try:
            answer = self._route(request.method, [part for part in request.url.path.split("/") if part], request, body)
        except Said as error:
            return error.answer
        if line in self.lost:
            self.lost.remove(line)
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
        if "filter_path" in request.query_params and isinstance(answer, dict):
            answer = filtered(answer, request.query_params["filter_path"].split(","))
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    def _route(self, method: str, parts: list[str], request: Request, body: Any) -> Any:
        match method, parts:
            case "GET", []:
                return self._root()
            case _, ["_snapshot", repository]:
                return self._repository(method, repository, body)
            case "POST", ["_snapshot", repository, "_verify"]:
                self._place(repository)
                return {"nodes": {"node-id": {"name": f"{self.name}-1"}}}
            case "GET", ["_snapshot", repository, name, "_status"]:
                return status_of(self._snapshot(repository, name))
            case "POST", ["_snapshot", repository, name, "_restore"]:
                return self._restore(repository, name, body)
            case _, ["_snapshot", repository, name]:
                return self._snapshots(method, repository, name, body)
            case "GET", ["_all", "_alias"]:
                return {name: {"aliases": index.aliases} for name, index in self.indices.items()}
            case "GET", ["_resolve", "index", "*"]:
                return self._names()
            case "GET", ["_all", "_settings", setting]:
                return {
                    name: {"settings": {setting: index.settings[setting]}}
                    for name, index in self.indices.items()
                    if setting in index.settings
                }
            case "POST", [names, "_refresh"]:
                for name in self._named(names):
                    self.indices[name].unseen = 0
                return {"_shards": {"failed": 0}}
            case "PUT", [names, "_settings"]:
                for index in self._open(names):
                    index.settings = {k: v for k, v in (index.settings | body).items() if v is not None}
                return {"acknowledged": True}
            case "GET", [names, "_stats", "docs"]:
                return {
                    "indices": {
                        name: stats(self.indices[name]) for name in self._named(names) if not self.indices[name].closed
                    }
                }
            case "GET", [names, "_recovery"]:
                return {name: recovery(self.indices[name]) for name in self._named(names)}
            case "DELETE", ["_data_stream", names]:
                for backing in [one for name in names.split(",") for one in self.data_streams.pop(name)]:
                    del self.indices[backing]
                return {"acknowledged": True}
            case "DELETE", [names]:
                for name in self._named(names, request.query_params.get("ignore_unavailable") == "true"):
                    del self.indices[name]
                return {"acknowledged": True}
            case "POST", ["_aliases"]:
                return self._move(body["actions"])
            case "GET", ["_cluster", "health", *names]:
                return self._health(names)
            case "GET", ["_cat", "shards", *names]:
                return self._shards(names)
            case "POST", ["_cluster", "allocation", "explain"]:
                return self._explain(body)
            case "GET", ["_nodes", "stats", "fs"]:
                return {
                    "nodes": {
                        "node-id": {"roles": ["data", "ingest"], "fs": {"total": {"available_in_bytes": self.free}}}
                    }
                }
        raise Said(400, "illegal_argument_exception", f"no handler found for {method} /{'/'.join(parts)}")

    def _root(self) -> dict[str, Any]:
        version = {"number": self.version, "lucene_version": "9.12.1"}
        if self.product is SearchProduct.OPENSEARCH:
            version |= {"distribution": "opensearch"}
        return {"name": f"{self.name}-1", "cluster_name": self.name, "cluster_uuid": self.uuid, "version": version}

    # -- repositories and snapshots -----------------------------------------------------------------------------------

    def _repository(self, method: str, name: str, body: Any) -> Any:
        if method == "GET":
            if name not in self.repositories:
                raise Said(404, "repository_missing_exception", f"[{name}] missing")
            return {name: self.repositories[name]}
        if body["type"] == "s3" and self.has_s3:
            self.repositories[name] = body
            return {"acknowledged": True}
        if body["type"] != "fs":
            raise Said(500, "repository_exception", f"[{name}] repository type [{body['type']}] does not exist")
        if not body["settings"]["location"].startswith("/repository/"):
            raise Said(
                500, "repository_exception",
                f"[{name}] location [{body['settings']['location']}] doesn't match any of the locations specified by"
                " path.repo",
            )  # fmt: skip
        self.repositories[name] = body
        return {"acknowledged": True}

    def _place(self, repository: str) -> dict[str, Snapshot]:
        if repository not in self.repositories:
            raise Said(404, "repository_missing_exception", f"[{repository}] missing")
        settings = self.repositories[repository]["settings"]
        return self.disk.places.setdefault(settings.get("location") or settings["bucket"], {})

    def _snapshot(self, repository: str, name: str) -> Snapshot:
        found = self._place(repository).get(name)
        if found is None:
            raise Said(404, "snapshot_missing_exception", f"[{repository}:{name}] is missing")
        return found

    def _snapshots(self, method: str, repository: str, name: str, body: Any) -> Any:
        place = self._place(repository)
        if method == "GET":
            listed = list(place.values()) if name == "_all" else [self._snapshot(repository, name)]
            return {"snapshots": [described(snapshot) for snapshot in listed]}
        if self.repositories[repository]["settings"].get("readonly") == "true":
            raise Said(500, "repository_exception", f"[{repository}] cannot change a readonly repository")
        if method == "DELETE":
            self._snapshot(repository, name)
            del place[name]
            return {"acknowledged": True}
        if name in place:
            raise Said(
                400,
                "invalid_snapshot_name_exception",
                f"[{repository}:{name}] snapshot with the same name already exists",
            )
        place[name] = self._begun(name, place, body)
        return {"accepted": True}

    @property
    def _format(self) -> str:
        """What a snapshot calls its version: with Elasticsearch that of its format, which several releases share."""
        if self.product is SearchProduct.OPENSEARCH:
            return self.version
        return f"{self.version.rpartition('.')[0]}.0-{self.version}"

    def _begun(self, name: str, place: dict[str, Snapshot], body: Any) -> Snapshot:
        wanted: dict[str, None] = {}
        for pattern in body["indices"]:
            text = pattern.removeprefix("-")
            rule = re.compile(re.escape(text).replace(r"\*", ".*"))
            matches = [known for known in [*self.indices, *self.data_streams] if rule.fullmatch(known)]
            if not matches and "*" not in text:
                raise Said(404, "index_not_found_exception", f"no such index [{text}]")
            for match in matches:
                if pattern == text:
                    wanted[match] = None
                else:
                    wanted.pop(match, None)
        lost = [one for one in wanted if one in self.indices and self.indices[one].failed]
        if lost:
            raise Said(500, "snapshot_exception", f"[{name}] Indices don't have primary shards {lost}")
        streams = {one: list(self.data_streams[one]) for one in wanted if one in self.data_streams}
        indices = {*(one for one in wanted if one in self.indices), *(i for each in streams.values() for i in each)}
        snapshot = Snapshot(
            name, {one: self.indices[one].copy() for one in sorted(indices)}, streams, self._format,
            body["include_global_state"], body.get("metadata"), self.snapshot_looks,
        )  # fmt: skip
        for known, index in snapshot.indices.items():
            self.indices[known].shards = [count + self.written_meanwhile.get(known, 0) for count in index.shards]
        snapshot.new_bytes = max(0, snapshot.bytes - max((older.bytes for older in place.values()), default=0))
        self.outcome(snapshot)
        return snapshot

    # -- restores -----------------------------------------------------------------------------------------------------

    def _restore(self, repository: str, name: str, body: Any) -> Any:
        snapshot = self._snapshot(repository, name)
        streams = [one for one in body["indices"] if one in snapshot.data_streams]
        backing = [index for one in streams for index in snapshot.data_streams[one]]
        made: dict[str, Index] = {}
        for known in [*(one for one in body["indices"] if one not in streams), *backing]:
            if known not in snapshot.indices:
                raise Said(404, "index_not_found_exception", f"no such index [{known}]")
            target = rename(known, body, known in backing)
            if target in self.indices and not self.indices[target].closed:
                raise Said(
                    500, "snapshot_restore_exception",
                    f"[{repository}:{name}] cannot restore index [{target}] because an open index with same name"
                    " already exists in the cluster.",
                )  # fmt: skip
            made[target] = self._restored(snapshot.indices[known], body, repository)
        self.indices |= made
        for one in streams:
            self.data_streams[rename(one, body, False)] = [
                rename(index, body, True) for index in snapshot.data_streams[one]
            ]
        return {"accepted": True}

    def _restored(self, kept: Index, body: Any, repository: str) -> Index:
        index = kept.copy()
        index.settings |= {k: v for k, v in body["index_settings"].items() if k == MARK}
        index.replicas = body["index_settings"].get("index.number_of_replicas", kept.replicas)
        index.looks, index.restored = self.restore_looks, True
        index.failed = self.repositories[repository]["settings"]["location"] in self.disk.damaged
        if not body["include_aliases"]:
            index.aliases = {}
        return index

    # -- the cluster --------------------------------------------------------------------------------------------------

    def _named(self, names: str, leave_out: bool = True) -> list[str]:
        if names == "_all":
            return list(self.indices)
        missing = [name for name in names.split(",") if name not in self.indices]
        if missing and not leave_out:
            raise Said(404, "index_not_found_exception", f"no such index [{missing[0]}]")
        return [name for name in names.split(",") if name in self.indices]

    def _open(self, names: str) -> list[Index]:
        return [self.indices[name] for name in self._named(names, leave_out=False)]

    def _names(self) -> dict[str, Any]:
        aliases: dict[str, list[str]] = {}
        for name, index in self.indices.items():
            for alias in index.aliases:
                aliases.setdefault(alias, []).append(name)
        return {
            "indices": [
                {"name": name, "attributes": ["closed" if index.closed else "open"]}
                for name, index in self.indices.items()
            ],
            "aliases": [{"name": alias, "indices": indices} for alias, indices in aliases.items()],
            "data_streams": [
                {"name": name, "backing_indices": indices, "timestamp_field": "@timestamp"}
                for name, indices in self.data_streams.items()
            ],
        }

    def _move(self, actions: list[dict[str, Any]]) -> Any:
        for action in actions:
            ((verb, what),) = action.items()
            if what["index"] not in self.indices:
                raise Said(404, "index_not_found_exception", f"no such index [{what['index']}]")
            if verb == "add" and what["alias"] in self.indices:
                raise Said(
                    400,
                    "invalid_alias_name_exception",
                    f"an index exists with the same name as the alias [{what['alias']}]",
                )
        for action in actions:
            ((verb, what),) = action.items()
            if verb == "remove":
                del self.indices[what["index"]].aliases[what["alias"]]
            else:
                definition = {key: value for key, value in what.items() if key not in ("index", "alias")}
                self.indices[what["index"]].aliases[what["alias"]] = definition
        return {"acknowledged": True}

    def _health(self, names: list[str]) -> Any:
        wanted = names[0].split(",") if names else list(self.indices)
        if set(wanted) - self.indices.keys():
            return JSONResponse({"status": "red", "timed_out": True, "active_primary_shards": 0}, 408)
        found = [self.indices[name] for name in wanted]
        status = min((index.status for index in found), key=["red", "yellow", "green"].index, default="green")
        active = sum(len(index.shards) for index in found if index.serves)
        for index in found:
            index.looks -= 1
        shards = {name: {"number_of_shards": len(self.indices[name].shards)} for name in wanted}
        return {"status": status, "timed_out": False, "active_primary_shards": active, "indices": shards}

    def _shards(self, names: list[str]) -> Any:
        listed = names[0] if names else "_all"
        return JSONResponse([
            {"index": name, "shard": str(number), "prirep": kind, "state": state}
            for name in self._named(listed, leave_out=False)
            for number in range(len(self.indices[name].shards))
            for kind, state in self._copies(self.indices[name])
        ])  # fmt: skip

    def _copies(self, index: Index) -> list[tuple[str, str]]:
        lost = index.failed or (self.unwanted and not index.serves)
        primary = "UNASSIGNED" if lost else "STARTED" if index.serves else "INITIALIZING"
        return [("p", primary), *[("r", "UNASSIGNED")] * index.replicas]

    def _explain(self, body: Any) -> Any:
        index = self.indices[body["index"]]
        decider = {
            "decider": "same_shard", "decision": "NO",
            "explanation": "a copy of this shard is already allocated to this node",
        }  # fmt: skip
        if self.unwanted:
            decider = {"decider": "filter", "decision": "NO", "explanation": self.unwanted}
        if index.failed and body["primary"]:
            decider = {
                "decider": "restore_in_progress", "decision": "NO",
                "explanation": "shard has failed to be restored from the snapshot - manually close or delete the index",
            }  # fmt: skip
        return {
            "current_state": "unassigned", "can_allocate": "no",
            "unassigned_info": {"details": "failed to recover: truncated file" if index.failed else ""},
            "node_allocation_decisions": [{"node_name": f"{self.name}-1", "deciders": [decider]}],
        }  # fmt: skip


@dataclass
class Door:
    """An address, behind which one cluster after another may stand."""

    address: str = ""
    cluster: Cluster | None = None

    async def handle(self, request: Request) -> Response:
        assert self.cluster is not None
        return await self.cluster.handle(request)


@asynccontextmanager
async def a_door(certificate: Path | None = None, key: Path | None = None, *, port: int = 0) -> AsyncIterator[Door]:
    door = Door()
    methods = ["GET", "PUT", "POST", "DELETE"]
    application = Starlette(routes=[Route("/{path:path}", door.handle, methods=methods)])
    async with serving(application, port=port, certificate=certificate, key=key) as door.address:
        yield door
