"""Hosted zones of Route 53 for tests, and clients of them."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import httpx

from recovery.adapters.aws import AwsAccess
from recovery.adapters.route53 import Route53Zone
from recovery.domain.plan import DnsBefore
from tests.contract.route53_front import API, Front

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTESTTEST", "a-secret-of-the-tests"


def access(front: Front) -> AwsAccess:
    return AwsAccess(
        endpoint_url=front.address, access_key=ACCESS_KEY, secret_key=SECRET_KEY, connect_timeout=2, read_timeout=5
    )


async def made_zone(front: Front, name: str, records: list[tuple[str, int, str, str]]) -> str:
    """A new hosted zone with these records (name, ttl, type, value); its id."""
    zone_id = await _make(front.moto, name)
    merged: dict[tuple[str, str], DnsBefore] = {}
    for label, ttl, kind, value in records:
        former = merged.get((label, kind))
        values = [*(former.values if former else []), value]
        merged[label, kind] = DnsBefore(name=f"{label}.{name}", type=kind, ttl=ttl, values=values, zone=name)
    if merged:
        zone = client(front, zone_id, zone=name)
        await put(zone, *merged.values())
        await zone.close()
    return zone_id


def client(front: Front, zone_id: str, *, zone: str = "shop.test", **options: Any) -> Route53Zone:
    settings: dict[str, Any] = {
        "name_servers": [("127.0.0.1", front.dns_port)],
        "poll": timedelta(seconds=0.02),
        "settle_within": timedelta(seconds=0.6),
        "patience": timedelta(seconds=5),
    }
    return Route53Zone(zone, zone_id, access(front), **(settings | options))


async def put(zone: Route53Zone, *records: DnsBefore) -> None:
    """Creates records that do not exist yet."""
    await zone.replace([(record.model_copy(update={"values": [], "alias": None}), record) for record in records])


async def _make(moto: str, name: str) -> str:
    body = (
        f'<CreateHostedZoneRequest xmlns="{API}"><Name>{name}</Name>'
        f"<CallerReference>{uuid.uuid4().hex}</CallerReference></CreateHostedZoneRequest>"
    )
    scope = f"Credential={ACCESS_KEY}/20260101/us-east-1/route53/aws4_request"  # by which moto knows the API
    signed = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
    async with httpx.AsyncClient(timeout=20) as http:
        answer = await http.post(f"{moto}/2013-04-01/hostedzone", content=body, headers=signed)
    return answer.raise_for_status().headers["location"].rpartition("/")[2]
