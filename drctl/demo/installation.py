"""A whole installation on top of a running lab: keys, secrets as files, and the ``recovery.yaml`` that names them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from lab import Lab
from lab.guarded import STREAMS
from lab.state import CONTROL, SEARCH, WITNESS, S3Place
from recovery.backup.sealing import generate_age_key
from recovery.backup.signing import generate_signing_key
from recovery.domain.recovery_point import BackupKind

GROUP = "shop"
RECORD = "db.shop.test"
CRITICAL_TABLES = ["customers", "orders", "payments", "events"]

# In the lab an answer comes at once or never, and the database is small: budgets whose sum fits the RTO of 15 minutes.
BUDGETS = {
    "choose-recovery-point": "30s",
    "verify-infrastructure": "30s",
    "check-stores": "30s",
    "restore-database": "3m",
    "restore-streams": "3m",
    "restore-redis": "3m",
    "restore-search": "3m",
    "verify-data": "1m",
    "verify-stores": "1m",
    "verify-services": "10s",
    "remember-records": "20s",
    "switch-dns": "30s",
    "open-writes": "30s",
    "confirm-service": "30s",
    "open-stores": "30s",
}


@dataclass(frozen=True)
class Installation:
    """``config_file`` names the key that opens recovery points; ``backup_config_file`` is for workers without it."""

    folder: Path
    config_file: Path
    backup_config_file: Path


def install(lab: Lab, folder: Path, *, tier: str = "critical", all_stores: bool = False) -> Installation:
    """Writes keys, secrets (mode 600) and configuration for the lab into ``folder``.

    ``all_stores``: the group has every store of the lab, and not PostgreSQL alone.
    """
    writer = Secrets.below(folder)
    keys = Keys.write(writer)
    view = View(lab)
    group = group_document(view, writer, folder, tier)
    if all_stores:
        add_stores(view, writer, group)
        group["backup"]["kinds"] = [kind.value for kind in BackupKind if kind is not BackupKind.SNAPSHOT]
    document = base_document(view, writer, keys, {GROUP: group})
    config_file, backup_config_file = folder / "recovery.yaml", folder / "backup-worker.yaml"
    dump(document, config_file)
    dump(without_identities(document), backup_config_file)
    return Installation(folder, config_file, backup_config_file)


@dataclass(frozen=True)
class View:
    """Addresses as ``vantage`` sees them: through the lab's links, which partitions cut. None: the servers' own."""

    lab: Lab
    vantage: str | None = None

    @cached_property
    def regions(self) -> list[str]:
        return self.lab.describe().regions

    def at(self, place: str, service: str) -> tuple[str, int]:
        """Host and port."""
        return self.lab.seen_from(self.vantage or place, place, service)

    def of(self, address: str, place: str, service: str) -> str:
        """The URL ``address`` with host and port as they are seen."""
        parts = urlsplit(address)
        host, port = self.at(place, service)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@{host}:{port}" if login else f"{host}:{port}").geturl()


@dataclass(frozen=True)
class Keys:
    """Public keys and references to private ones."""

    recipients: list[str]
    identity: str
    signing_key: str
    signer: str

    @classmethod
    def write(cls, secrets: Secrets) -> Keys:
        """New keys; their private halves become secrets."""
        age, escrow, signing = generate_age_key(), generate_age_key(), generate_signing_key()
        secrets.write("escrow.agekey", escrow.secret)
        return cls(
            [age.public, escrow.public],
            secrets.write("operator.agekey", age.secret),
            secrets.write("signing.key", signing.secret),
            signing.public,
        )


def base_document(view: View, secrets: Secrets, keys: Keys, groups: dict[str, Any]) -> dict[str, Any]:
    """Everything that an installation has once."""
    lab = view.lab
    temporal = lab.temporal()
    host, port = view.at(CONTROL, "temporal")
    return {
        "version": 1,
        "temporal": {"address": f"{host}:{port}", "ui_address": temporal.ui_address},
        "keys": {
            "recipients": keys.recipients,
            "identities": [keys.identity],
            "signing_key": keys.signing_key,
            "trusted_signers": [keys.signer],
        },
        "witness": _store(view, secrets, WITNESS, lab.witness(), "recovery"),
        "locations": {
            f"store-{region}": {**_location(view, secrets, region), "in_region": region} for region in view.regions
        },
        "regions": {
            region: {"role": "primary" if number == 0 else "dr", "priority": 100 - 10 * number}
            for number, region in enumerate(view.regions)
        },
        "groups": groups,
        "notifications": {
            "channels": {
                "webhook": {
                    "url": secrets.write("webhook.url", lab.webhook().url.replace("http://", "json://", 1)),
                    "severities": ["info", "warning", "critical"],
                }
            }
        },
    }


def without_identities(document: dict[str, Any]) -> dict[str, Any]:
    """The same for a worker that must not open recovery points."""
    keys = {key: value for key, value in document["keys"].items() if key != "identities"}
    return {**document, "keys": keys}


def dump(document: dict[str, Any], file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        YAML().dump(document, stream)


@dataclass(frozen=True)
class Secrets:
    """Secrets as files for their owner's eyes only."""

    folder: Path

    @classmethod
    def below(cls, folder: Path) -> Secrets:
        secrets = folder / "secrets"
        secrets.mkdir(parents=True, mode=0o700, exist_ok=True)
        return cls(secrets)

    def write(self, name: str, value: str) -> str:
        """Stores a secret and returns the reference to it."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(value, encoding="utf-8")
        return f"file:{path}"


def _location(view: View, secrets: Secrets, region: str) -> dict[str, Any]:
    """The region's own object store, or a folder in a lab that was started without them."""
    if "s3" in view.lab.describe().services:
        return _store(view, secrets, region, view.lab.s3(region), "points")
    folder = secrets.folder.parent / "stores" / region
    folder.mkdir(parents=True, exist_ok=True)
    return {"url": f"file://{folder}"}


def _store(view: View, secrets: Secrets, place: str, found: S3Place, prefix: str) -> dict[str, Any]:
    name = place if place == WITNESS else f"store-{place}"
    return {
        "url": f"s3://{found.bucket}/{prefix}",
        "endpoint": view.of(found.endpoint, place, WITNESS if place == WITNESS else "s3"),
        "region": found.region,
        "credentials": {
            "access_key": secrets.write(f"{name}.access", found.access_key),
            "secret_key": secrets.write(f"{name}.secret", found.secret_key),
        },
    }


def group_document(view: View, secrets: Secrets, folder: Path, tier: str) -> dict[str, Any]:
    """The shop: PostgreSQL, its records, where its points go and how they are proven."""
    lab = view.lab
    source = lab.postgres(view.regions[0])
    dns = lab.dns()
    host, port = view.at(CONTROL, "dns")
    return {
        "tier": tier,
        "services": ["shop"],
        "home": view.regions[0],
        "regions": {region: _region(view, region) for region in view.regions},
        "postgres": {
            "databases": [source.database],
            "database": source.database,
            "user": source.superuser,
            "password": secrets.write("postgres.password", source.password),
            "backup_user": source.backup_user,
            "backup_password": secrets.write("backup.password", source.backup_password),
        },
        "critical_tables": CRITICAL_TABLES,
        "budgets": {"FullRecovery": BUDGETS},
        "dns": {
            "provider": "rfc2136",
            "server": f"{host}:{port}",
            "zone": dns.zone,
            "tsig": {
                "name": dns.tsig_key_name,
                "secret": secrets.write("tsig.secret", dns.tsig_secret),
                "algorithm": dns.tsig_algorithm,
            },
            "records": [{"name": RECORD, "type": "A", "ttl": 1}],
        },
        "backup": {
            "locations": [f"store-{region}" for region in view.regions],
            "validation": {"scratch_folder": str(folder / "scratch")},
        },
    }


def add_stores(view: View, secrets: Secrets, group: dict[str, Any]) -> None:
    """The shop's streams, its Redis and its search engine, as far as the lab has them."""
    state = view.lab.describe()
    first = view.regions[0]
    if "nats" in state.services:
        group["nats"] = {"streams": list(STREAMS)}
        if (place := state.jetstream.get(first)) is not None:
            password = secrets.write("nats.password", place.password)
            group["nats"] |= {"user": place.user, "password": password}
    if "redis" in state.services:
        password = urlsplit(view.lab.redis(first)).password or ""
        group["redis"] = {"password": secrets.write("redis.password", password)}
    if SEARCH in state.services:
        place_of = {region: view.of(view.lab.search(region).url, region, SEARCH) for region in view.regions}
        group["elasticsearch"] = {
            "storage": {"type": "fs", "location": str(view.lab.search(first).repository)},
            "scratch": {"address": place_of[view.regions[-1]]},
        }
        for region, section in group["regions"].items():
            section["elasticsearch"] = place_of[region]
    for region, section in group["regions"].items():
        for store in ("nats", "redis"):
            if store in state.services:
                host, port = view.at(region, store)
                section[store] = f"{host}:{port}"


def _region(view: View, region: str) -> dict[str, Any]:
    place = view.lab.postgres(region)
    host, port = view.at(region, "postgres")
    application = view.of(view.lab.app(region), region, "app")
    return {
        "dns_value": place.host,
        "health_urls": [f"{application}{path}" for path in ("/healthz", "/readyz", "/api/v1/status")],
        "postgres": {
            "host": host,
            "port": port,
            "data_directory": str(place.data_directory),
            "bin_directories": {place.version: str(place.bin_directory)},
            **({"run_as": place.run_as} if place.run_as else {}),
        },
    }
