"""Values that belong together, exclude each other, or are no such thing at all: each is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recovery.config import Config, Mistake
from recovery.config.config import LARGEST_FILE
from recovery.config.places import read_places
from recovery.errors import BadInput

POSTGRES = "      user: recovery\n      password: env:SHOP_POSTGRES_PASSWORD\n"
LOCATION = """  store-a:
    url: s3://recovery-a/points
    endpoint: http://127.0.0.1:8301
    region: us-east-1
    in_region: region-a
    credentials: {access_key: env:STORE_A_ACCESS_KEY_ID, secret_key: env:STORE_A_SECRET_ACCESS_KEY}
"""
FOLDER = "  store-a:\n    url: file:///srv/recovery\n    in_region: region-a\n"
BACKUP = "    backup:\n      locations: [store-a, store-b]\n"
TEMPORAL = "  address: 127.0.0.1:7233\n"
SERVER = "      provider: rfc2136\n      server: 127.0.0.1:5353\n"
TSIG = "      tsig: {name: recovery-key, secret: env:DNS_TSIG_SECRET}\n"

CASES = {
    "a certificate without its key": (
        TEMPORAL, f"{TEMPORAL}  tls: {{certificate_file: /etc/recovery/tls/client.pem}}\n",
        "expected certificate_file and key together, or neither of them",
    ),
    "patroni's user without a password": (
        "    critical_tables:", "    patroni: {members: {region-a: [http://127.0.0.1:8008]}, user: recovery}\n"
        "    critical_tables:", "expected user and password together, or neither of them",
    ),
    "a manager without its section": (
        POSTGRES, f"{POSTGRES}      managed_by: patroni\n",
        "expected the key patroni beside postgres.managed_by patroni",
    ),
    "an access key of RDS alone": (
        "    critical_tables:", "    rds: {instances: {region-a: shop-a}, access_key: env:KEY}\n    critical_tables:",
        "expected access_key and secret_key together, or neither of them",
    ),
    "a standby's password without its user": (
        "          run_as: postgres\n      region-b:",
        "          run_as: postgres\n          replication_password: env:P\n      region-b:",
        "expected replication_user beside replication_password: whose password is it?",
    ),
    "more acknowledgements than standbys": (
        "    critical_tables:", "    replication: {synchronous: true, acknowledgements: 2}\n    critical_tables:",
        "expected replication.acknowledgements of at most 1, the number of the group's other regions",
    ),
    "a folder with an endpoint": (
        LOCATION, f"{FOLDER}    endpoint: http://127.0.0.1:8301\n",
        "expected no endpoint beside a file:// url: a folder has none of it",
    ),
    "a folder with a storage class": (
        LOCATION, f"{FOLDER}    storage_class: STANDARD_IA\n",
        "expected no storage_class beside a file:// url: only a bucket has that",
    ),
    "a key of KMS for the store's own": (
        LOCATION, f"{LOCATION}    encryption: {{algorithm: AES256, kms_key: 'arn:aws:kms:us-east-1:1:key/dr'}}\n",
        "expected algorithm aws:kms beside kms_key: AES256 uses a key of the store's own",
    ),
    "updates without a server": (
        SERVER, "      provider: rfc2136\n", "expected server beside provider rfc2136",
    ),
    "another provider's key": (
        TSIG, f"{TSIG}      zone_id: Z123\n", "expected no zone_id beside provider rfc2136: that is route53's",
    ),
    "a schedule that is a number": (
        BACKUP, f"{BACKUP}      schedule: 6\n", "expected a cron expression of five fields, for example",
    ),
    "a count for a duration": (
        "notifications:\n",
        "monitoring:\n  alerts:\n    - {name: high_replication_lag, threshold: 5, severity: warning}\nnotifications:\n",
        "expected a duration as threshold of high_replication_lag, for example 60s",
    ),
    "a threshold that is true": (
        "notifications:\n",
        "monitoring:\n  alerts:\n    - {name: backup_failure, threshold: true, severity: warning}\nnotifications:\n",
        "expected a duration or a count, for example 60s or 2",
    ),
    "a host that is none": (
        "          host: 127.0.0.1\n          port: 54320", "          host: 'db one'\n          port: 54320",
        "expected a host name or an IP address, for example postgres-primary.us-east-1.example.com",
    ),
    "a budget of what is no plan": (
        "    critical_tables:", "    budgets: {'Full Recovery!': {restore-database: 5m}}\n    critical_tables:",
        "expected a plan's name, for example FullRecovery (drctl plan show lists them)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_what_was_expected(
    case: str, spoiled: Callable[..., str], mistakes_of: Callable[[str], list[Mistake]]
) -> None:
    old, new, words = CASES[case]
    sentences = [mistake.sentence("recovery.yaml") for mistake in mistakes_of(spoiled((old, new)))]
    assert any(words in sentence for sentence in sentences), sentences


def test_a_private_signing_key_among_the_public_ones_is_named_and_not_shown(
    spoiled: Callable[..., str], mistakes_of: Callable[[str], list[Mistake]]
) -> None:
    secret = "ed25519-secret:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="
    public = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    (mistake,) = mistakes_of(spoiled((public, secret)))
    sentence = mistake.sentence("recovery.yaml")
    assert "this is a private one: put it behind keys.signing_key as a reference" in sentence
    assert secret not in sentence and "c2VjcmV0" not in sentence


def test_a_file_of_a_size_that_nobody_wrote_is_not_read(minimal: str, tmp_path: Path) -> None:
    file = tmp_path / "recovery.yaml"
    file.write_text(minimal + "#" * LARGEST_FILE)
    with pytest.raises(BadInput, match="expected at most .* MiB; use `defaults` for what repeats"):
        Config.load(file)


def test_nothing_unsigned_is_believed(spoiled: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "recovery.yaml"
    file.write_text(spoiled(('["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]', "[]")))
    with pytest.raises(BadInput, match=r"keys\.trusted_signers: expected"):
        read_places(file)
