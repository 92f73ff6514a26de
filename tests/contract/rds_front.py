"""In front of moto: what RDS refuses and moto lets pass, and how long RDS takes.

Snapshots: one is taken of an instance that is available, copied and deleted when it is available itself; a copy into
another region comes with a signed request for the source's region, and of an encrypted one with a key.

Written after the RDS API reference and user guide: an order needs an instance that is available; only a read replica
can be promoted; an instance with read replicas is never stopped; a restored one has no address until it was made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs
from xml.etree import ElementTree

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.contract.serving import serving

NS = "{http://rds.amazonaws.com/doc/2014-10-31/}"
Key = tuple[str, str]
COMING = {
    "PromoteReadReplica": ["modifying", "rebooting"],
    "StopDBInstance": ["stopping"],
    "StartDBInstance": ["starting"],
    "RebootDBInstance": ["rebooting"],
    "RestoreDBInstanceFromDBSnapshot": ["creating", "backing-up"],
}
NEEDS = {
    "PromoteReadReplica": "available",
    "StopDBInstance": "available",
    "StartDBInstance": "stopped",
    "RebootDBInstance": "available",
    "ModifyDBInstance": "available",
    "CreateDBSnapshot": "available",
}
OPERATIONAL = {"available", "storage-optimization", "storage-initialization"}  # an order passes in any of them
MAKING = [("creating", 0), ("creating", 40), ("creating", 95)]


@dataclass
class Front:
    """``status`` overrides what an instance is; ``coming`` is what it is on its way, one look each."""

    moto: str
    address: str = ""
    status: dict[Key, str] = field(default_factory=dict)
    coming: dict[Key, list[str]] = field(default_factory=dict)
    broken: dict[Key, str] = field(default_factory=dict)  # replication that does not work: its message
    promoted: set[Key] = field(default_factory=set)
    adding: dict[Key, int] = field(default_factory=dict)  # looks until changed security groups are in force
    silent: set[str] = field(default_factory=set)  # regions whose API is down
    faults: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)  # (action, region, instance)
    making: dict[Key, list[tuple[str, int]]] = field(default_factory=dict)  # of snapshots: state and percent, one look
    snapshot_changes: dict[Key, dict[str, str]] = field(default_factory=dict)  # what a snapshot is by now
    refused: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # (action, region) -> code, words
    deleting: dict[Key, int] = field(default_factory=dict)  # looks until an instance that was deleted is gone
    delete_looks: int = 0
    restores: list[dict[str, str]] = field(default_factory=list)  # what was asked for
    families: dict[str, str] = field(default_factory=dict)  # of parameter groups and snapshots, where it matters
    slow: asyncio.Event | None = None  # what the answer to a restore waits for
    accounts: dict[str, str] = field(default_factory=dict)  # region -> another account than moto's
    lost: set[str] = field(default_factory=set)  # actions that are carried out, and whose answers get lost

    async def call(self, request: Request) -> Response:
        body = await request.body()
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action, name = asked["Action"], asked.get("DBInstanceIdentifier", "")
        found = re.search(r"Credential=[^/]+/\d+/([^/]+)/rds", request.headers["authorization"])
        assert found is not None
        region = found[1]
        self.calls.append((action, region, name))
        if region in self.silent:
            return _error(503, "ServiceUnavailable", "the region is down")
        if self.faults and self.faults.pop(0) == "throttle":
            return _error(400, "Throttling", "Rate exceeded")
        if (action, region) in self.refused:
            return _error(400, *self.refused[action, region])
        if action.startswith("Restore"):
            self.restores.append(asked)
            if self.slow is not None:
                await self.slow.wait()
            family = self.families.get(asked.get("DBParameterGroupName", ""))
            if family and family != self.families.get(asked["DBSnapshotIdentifier"]):
                return _error(400, "InvalidParameterCombination", f"the parameter group is of {family}")
        key = (region, name)
        snapshot = (region, asked.get("TargetDBSnapshotIdentifier") or asked.get("DBSnapshotIdentifier", ""))
        if refusal := await self._refusal(request, action, key) or self._snapshot_refusal(action, snapshot, asked):
            return refusal
        if action == "DeleteDBInstance" and self.delete_looks and key not in self.deleting:
            self.deleting[key], self.status[key] = self.delete_looks, "deleting"
            body = body.replace(b"Action=DeleteDBInstance", b"Action=DescribeDBInstances")
        elif action == "DescribeDBInstances" and key in self.deleting:
            await self._delete_soon(request, key)
        answer = await self._pass_on(request, body)
        if action == "DeleteDBInstance" and key in self.deleting:
            return Response(answer.content.replace(b"DescribeDBInstances", b"DeleteDBInstance"), media_type="text/xml")
        if answer.status_code == 200:
            self._note(action, key)
            if action in ("CreateDBSnapshot", "CopyDBSnapshot"):
                self.making.setdefault(snapshot, list(MAKING))
            if action in self.lost:
                return _error(503, "ServiceUnavailable", "the answer was lost")
        if region in self.accounts:
            answer = httpx.Response(
                answer.status_code,
                content=answer.content.replace(b":123456789012:", f":{self.accounts[region]}:".encode()),
            )
        if action == "DescribeDBSnapshots" and answer.status_code == 200:
            return Response(self._snapshots_seen(region, answer.content), media_type="text/xml")
        if action == "DescribeDBInstances" and answer.status_code == 200:
            return Response(self._seen(region, answer.content), media_type="text/xml")
        return Response(answer.content, answer.status_code, media_type="text/xml")

    async def _refusal(self, request: Request, action: str, key: Key) -> Response | None:
        needed = NEEDS.get(action)
        if needed is None:
            return None
        now = await self._now(request, key)
        if now is None:
            return None
        status = self.coming[key][0] if self.coming.get(key) else now.findtext(f"{NS}DBInstanceStatus")
        source = now.findtext(f"{NS}ReadReplicaSourceDBInstanceIdentifier")
        replicas = [each.text for each in now.iter(f"{NS}ReadReplicaDBInstanceIdentifier")]
        if status != needed and not (needed == "available" and status in OPERATIONAL):
            return _error(400, "InvalidDBInstanceState", f"Instance {key[1]} is not {needed}, it is {status}")
        if action == "PromoteReadReplica" and not source:
            return _error(400, "InvalidDBInstanceState", f"DB Instance {key[1]} is not a read replica")
        if action == "StopDBInstance" and (source or replicas):
            return _error(400, "InvalidDBInstanceState", "Cannot stop an instance that has read replicas or is one")
        return None

    async def _delete_soon(self, request: Request, key: Key) -> None:
        self.deleting[key] -= 1
        if self.deleting[key] <= 0:
            del self.deleting[key], self.status[key]
            words = f"Action=DeleteDBInstance&Version=2014-10-31&DBInstanceIdentifier={key[1]}&SkipFinalSnapshot=true"
            await self._pass_on(request, words.encode())

    def _snapshot_refusal(self, action: str, key: Key, asked: dict[str, str]) -> Response | None:
        if action == "DeleteDBSnapshot" and self.making.get(key):
            return _error(400, "InvalidDBSnapshotState", f"Cannot delete the snapshot {key[1]}: it is creating")
        if action != "CopyDBSnapshot":
            return None
        *_, source_region, _, _, name = asked["SourceDBSnapshotIdentifier"].rsplit(":", 4)
        source = (source_region, name)
        if source_region != key[0] and f"{source_region}" not in asked.get("PreSignedUrl", ""):
            return _error(400, "InvalidParameterValue", "a copy from another region needs a signed request for it")
        if self.making.get(source):
            return _error(400, "InvalidDBSnapshotState", f"Snapshot {name} is not available")
        if self.snapshot_changes.get(source, {}).get("Encrypted") == "true" and "KmsKeyId" not in asked:
            return _error(400, "KMSKeyNotAccessibleFault", "a copy of an encrypted snapshot needs a key of its region")
        return None

    def _snapshots_seen(self, region: str, content: bytes) -> bytes:
        root = ElementTree.fromstring(content)
        for entry in root.iter(f"{NS}DBSnapshot"):
            key = (region, entry.findtext(f"{NS}DBSnapshotIdentifier") or "")
            changed = dict(self.snapshot_changes.get(key, {}))
            if self.making.get(key):
                status, percent = self.making[key].pop(0)
                changed |= {"Status": status, "PercentProgress": str(percent)}
                _drop(entry, "SnapshotCreateTime")
                _drop(entry, "OriginalSnapshotCreateTime")
            for label, value in changed.items():
                _drop(entry, label)
                ElementTree.SubElement(entry, f"{NS}{label}").text = value
        return ElementTree.tostring(root)

    async def _now(self, request: Request, key: Key) -> ElementTree.Element | None:
        body = f"Action=DescribeDBInstances&Version=2014-10-31&DBInstanceIdentifier={key[1]}".encode()
        answer = await self._pass_on(request, body)
        if answer.status_code != 200:
            return None
        root = ElementTree.fromstring(self._seen(key[0], answer.content, look=False))
        return next(root.iter(f"{NS}DBInstance"), None)

    def _note(self, action: str, key: Key) -> None:
        if action in COMING:
            self.coming[key] = list(COMING[action])
            if not action.startswith("Restore"):  # what becomes of a new one stands there beforehand
                self.status.pop(key, None)
        if action == "PromoteReadReplica":
            self.promoted.add(key)
        if action == "ModifyDBInstance":
            self.adding[key] = 2

    def _seen(self, region: str, content: bytes, *, look: bool = True) -> bytes:
        root = ElementTree.fromstring(content)
        for entry in root.iter(f"{NS}DBInstance"):
            self._rewrite(region, entry, look)
        return ElementTree.tostring(root)

    def _rewrite(self, region: str, entry: ElementTree.Element, look: bool) -> None:
        key = (region, entry.findtext(f"{NS}DBInstanceIdentifier") or "")
        coming = self.coming.get(key, [])
        status = coming[0] if coming else self.status.get(key)
        if coming and look:
            del coming[0]
        named = entry.find(f"{NS}DBInstanceStatus")
        if status is not None and named is not None:
            named.text = status
        if status == "creating":
            _drop(entry, "Endpoint")
        if key in self.promoted and not (coming or status in ("modifying", "rebooting")):
            _drop(entry, "ReadReplicaSourceDBInstanceIdentifier")
        if entry.findtext(f"{NS}ReadReplicaSourceDBInstanceIdentifier"):
            _drop(entry, "ReadReplicaDBInstanceIdentifiers")  # moto's replica is a copy of its source, replicas and all
        for listed in entry.iter(f"{NS}ReadReplicaDBInstanceIdentifiers"):
            for replica in list(listed):
                if any((replica.text or "").endswith(name) for _, name in self.promoted):
                    listed.remove(replica)
        if key in self.broken:
            info = ElementTree.SubElement(
                ElementTree.SubElement(entry, f"{NS}StatusInfos"), f"{NS}DBInstanceStatusInfo"
            )
            values = {
                "StatusType": "read replication",
                "Normal": "false",
                "Status": "error",
                "Message": self.broken[key],
            }
            for label, value in values.items():
                ElementTree.SubElement(info, f"{NS}{label}").text = value
        if self.adding.get(key, 0) > 0:
            self.adding[key] -= 1
            for group in entry.iter(f"{NS}VpcSecurityGroupMembership"):
                stated = group.find(f"{NS}Status")
                assert stated is not None
                stated.text = "adding"

    async def _pass_on(self, request: Request, body: bytes) -> httpx.Response:
        kept = ("authorization", "x-amz-date", "content-type")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with httpx.AsyncClient(timeout=20) as client:
            return await client.post(f"{self.moto}/", content=body, headers=headers)


def _drop(entry: ElementTree.Element, label: str) -> None:
    for found in entry.findall(f"{NS}{label}"):
        entry.remove(found)


def _error(status: int, code: str, words: str) -> Response:
    return Response(
        f'<ErrorResponse xmlns="{NS[1:-1]}"><Error><Type>Sender</Type><Code>{code}</Code><Message>{words}</Message>'
        "</Error><RequestId>1</RequestId></ErrorResponse>",
        status,
        media_type="text/xml",
    )


@asynccontextmanager
async def rds(moto: str) -> AsyncIterator[Front]:
    front = Front(moto)
    async with serving(Starlette(routes=[Route("/", front.call, methods=["POST"])])) as front.address:
        yield front
