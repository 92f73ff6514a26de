"""The configuration of an installation in the tests: the demo's group, and one of each other kind of store."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from drctl.demo.installation import GROUP, Installation, install
from drctl.demo.installation import Secrets as SecretFiles
from lab import Lab
from tests.integration.crew import AWAY, HOME, REGIONS
from tests.ports import free_port

STREAMS = "messages"
"""A second group: the shop's database, and streams of JetStream."""
STREAM_NAMES = ["audit", "orders"]
CACHE = "carts"
"""A third group: a Redis alone."""
INDICES = "finding"
"""A fourth group: a search engine alone, which a test serves at the addresses of the configuration."""


def installed_groups(lab: Lab, folder: Path, amend: Callable[[dict[str, Any]], None]) -> Installation:
    """As the demo's, but it waits only 3 s for a service that is down, and keeps one recovery point of each kind."""
    folder.mkdir(mode=0o711)
    installation = install(lab, folder)
    yaml = YAML()
    addresses = {region: f"http://127.0.0.1:{free_port()}" for region in REGIONS}
    for file in (installation.config_file, installation.backup_config_file):
        document = yaml.load(file)
        document["groups"][GROUP]["budgets"] = {"full-recovery": {"verify-services": "3s"}}
        document["groups"][GROUP]["backup"].update(retention_count=1, retention_days=None)
        amend(document["groups"][GROUP])
        document["groups"][STREAMS] = _streams_group(lab, document["groups"][GROUP])
        document["groups"][CACHE] = _cache_group(lab, folder, document["groups"][GROUP])
        document["groups"][INDICES] = _indices_group(addresses, document["groups"][GROUP])
        document["notifications"]["attempts"] = 1
        yaml.dump(document, file)
    return installation


def _streams_group(lab: Lab, shop: dict[str, Any]) -> dict[str, Any]:
    own = copy.deepcopy({key: shop[key] for key in ("tier", "home", "regions", "postgres", "backup")})
    for region in REGIONS:
        own["regions"][region]["nats"] = lab.nats(region).removeprefix("nats://")
    own["backup"]["kinds"] = ["physical", "streams"]
    own["backup"].pop("wal", None)  # the shop archives that server's
    return {**own, "nats": {"streams": STREAM_NAMES}}


def _cache_group(lab: Lab, folder: Path, shop: dict[str, Any]) -> dict[str, Any]:
    urls = {region: urlsplit(lab.redis(region)) for region in REGIONS}
    password = SecretFiles.below(folder).write("redis.password", urls[HOME].password or "")
    return {
        "tier": shop["tier"],
        "home": HOME,
        "regions": {region: {"redis": f"{url.hostname}:{url.port}"} for region, url in urls.items()},
        "redis": {"password": password},
        "backup": {**copy.deepcopy(shop["backup"]), "kinds": ["rdb"]},
    }


def _indices_group(addresses: dict[str, str], shop: dict[str, Any]) -> dict[str, Any]:
    """Points are proven in the other region's cluster."""
    return {
        "tier": shop["tier"],
        "home": HOME,
        "regions": {region: {"elasticsearch": address} for region, address in addresses.items()},
        "elasticsearch": {
            "storage": {"type": "fs", "location": "/repository/finding"},
            "scratch": {"address": addresses[AWAY]},
        },
        "backup": {**copy.deepcopy(shop["backup"]), "kinds": ["search"]},
    }
