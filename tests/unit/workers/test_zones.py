"""Which zone a record's change goes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from recovery.adapters.rfc2136 import Rfc2136Zone
from recovery.adapters.route53 import Route53Zone
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.errors import BadInput
from workers.zones import ConfiguredZones

MINIMAL = (Path(__file__).parents[1] / "config" / "minimal.yaml").read_text()
ENVIRONMENT = {"DNS_TSIG_SECRET": "c2VjcmV0", "DNS_ACCESS_KEY_ID": "key", "DNS_SECRET_ACCESS_KEY": "secret"}
OURS = """      provider: rfc2136
      server: 127.0.0.1:5353
      zone: shop.test
      tsig: {name: recovery-key, secret: env:DNS_TSIG_SECRET}
"""
AMAZONS = """      provider: route53
      zone: shop.test
      zone_id: Z2FDTNDATAQYW2
      access_key: env:DNS_ACCESS_KEY_ID
      secret_key: env:DNS_SECRET_ACCESS_KEY
      name_servers: [192.0.2.53, "192.0.2.54:5353"]
"""


def zones(text: str) -> ConfiguredZones:
    return ConfiguredZones(Config.parse(text), Secrets(environment=ENVIRONMENT))


async def test_each_provider_gets_its_zone() -> None:
    assert isinstance(await zones(MINIMAL)._zone("shop.test"), Rfc2136Zone)
    found = await zones(MINIMAL.replace(OURS, AMAZONS))._zone("shop.test")
    assert isinstance(found, Route53Zone)
    assert await found._servers() == [("192.0.2.53", 53), ("192.0.2.54", 5353)]


async def test_an_unknown_zone_is_said() -> None:
    with pytest.raises(BadInput, match=r"no group of the configuration has the DNS zone other\.test"):
        await zones(MINIMAL)._zone("other.test")
