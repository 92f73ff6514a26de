"""A whole installation on top of a running lab: keys, secrets as files, and the ``recovery.yaml`` that names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from lab import Lab
from lab.state import S3Place
from recovery.backup.sealing import generate_age_key
from recovery.backup.signing import generate_signing_key

GROUP = "shop"
RECORD = "db.shop.test"
CRITICAL_TABLES = ["customers", "orders", "payments", "events"]

# In the lab an answer comes at once or never, and the database is small: budgets whose sum fits the RTO of 15 minutes.
BUDGETS = {
    "choose-recovery-point": "30s",
    "verify-infrastructure": "30s",
    "restore-database": "3m",
    "verify-data": "1m",
    "verify-services": "10s",
    "remember-records": "20s",
    "switch-dns": "30s",
    "open-writes": "30s",
    "confirm-service": "30s",
}


@dataclass(frozen=True)
class Installation:
    """``config_file`` names the key that opens recovery points; ``backup_config_file`` is for workers without it."""

    folder: Path
    config_file: Path
    backup_config_file: Path


def install(lab: Lab, folder: Path, *, tier: str = "critical") -> Installation:
    """Writes keys, secrets (mode 600) and configuration for the lab into ``folder``."""
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, mode=0o700, exist_ok=True)
    writer = _Secrets(secrets)
    age, escrow, signing = generate_age_key(), generate_age_key(), generate_signing_key()
    writer.write("escrow.agekey", escrow.secret)
    document: dict[str, Any] = {
        "version": 1,
        "temporal": {"address": lab.temporal().address, "ui_address": lab.temporal().ui_address},
        "keys": {
            "recipients": [age.public, escrow.public],
            "identities": [writer.write("operator.agekey", age.secret)],
            "signing_key": writer.write("signing.key", signing.secret),
            "trusted_signers": [signing.public],
        },
        "witness": _store(writer, "witness", lab.witness(), "recovery"),
        "locations": {
            f"store-{region}": {
                **_store(writer, f"store-{region}", lab.s3(region), "points"),
                "in_region": region,
            }
            for region in lab.describe().regions
        },
        "regions": {
            region: {"role": "primary" if number == 0 else "dr", "priority": 100 - 10 * number}
            for number, region in enumerate(lab.describe().regions)
        },
        "groups": {GROUP: _group(lab, writer, folder, tier)},
        "notifications": {
            "channels": {
                "webhook": {
                    "url": writer.write("webhook.url", lab.webhook().url.replace("http://", "json://", 1)),
                    "severities": ["info", "warning", "critical"],
                }
            }
        },
    }
    config_file, backup_config_file = folder / "recovery.yaml", folder / "backup-worker.yaml"
    _dump(document, config_file)
    del document["keys"]["identities"]
    _dump(document, backup_config_file)
    return Installation(folder, config_file, backup_config_file)


def _dump(document: dict[str, Any], file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        YAML().dump(document, stream)


class _Secrets:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, value: str) -> str:
        """Stores a secret for its owner's eyes only and returns the reference to it."""
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(value, encoding="utf-8")
        return f"file:{path}"


def _store(secrets: _Secrets, name: str, place: S3Place, prefix: str) -> dict[str, Any]:
    return {
        "url": f"s3://{place.bucket}/{prefix}",
        "endpoint": place.endpoint,
        "region": place.region,
        "credentials": {
            "access_key": secrets.write(f"{name}.access", place.access_key),
            "secret_key": secrets.write(f"{name}.secret", place.secret_key),
        },
    }


def _group(lab: Lab, secrets: _Secrets, folder: Path, tier: str) -> dict[str, Any]:
    regions = lab.describe().regions
    source = lab.postgres(regions[0])
    dns = lab.dns()
    return {
        "tier": tier,
        "services": ["shop"],
        "home": regions[0],
        "regions": {region: _region(lab, region) for region in regions},
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
            "server": f"{dns.host}:{dns.port}",
            "zone": dns.zone,
            "tsig": {
                "name": dns.tsig_key_name,
                "secret": secrets.write("tsig.secret", dns.tsig_secret),
                "algorithm": dns.tsig_algorithm,
            },
            "records": [{"name": RECORD, "type": "A", "ttl": 1}],
        },
        "backup": {
            "locations": [f"store-{region}" for region in regions],
            "validation": {"scratch_folder": str(folder / "scratch")},
        },
    }


def _region(lab: Lab, region: str) -> dict[str, Any]:
    place = lab.postgres(region)
    return {
        "dns_value": place.host,
        "health_urls": [f"{lab.app(region)}{path}" for path in ("/healthz", "/readyz", "/api/v1/status")],
        "postgres": {
            "host": place.host,
            "port": place.port,
            "data_directory": str(place.data_directory),
            "bin_directories": {place.version: str(place.bin_directory)},
            **({"run_as": place.run_as} if place.run_as else {}),
        },
    }
