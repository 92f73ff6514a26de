"""A secret in the wrong place is refused and never repeated: not in an error, not in its chain, not in a dump."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError
from pydantic import ValidationError

from recovery.adapters.secrets import LARGEST, Secrets
from recovery.config import Config, ConfigurationInvalid
from recovery.config.stores import Postgres
from recovery.domain.secret import SecretRef, SecretScheme
from recovery.errors import BadInput, NotFound, RecoveryError, Refused, Unreachable

SECRET = "hunter2-Zq9x"

PLACES = [
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: {SECRET}", id="instead of a reference"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: {{value: {SECRET}}}", id="as a mapping"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: [{SECRET}]", id="in a list"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"pasword: {SECRET}", id="behind an unknown key"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: 'env:{SECRET}'", id="behind env:"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: 'file:{SECRET}'", id="behind file:"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: 'vault:{SECRET}'", id="behind an unknown scheme"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: !plain {SECRET}", id="behind a tag"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: *{SECRET}", id="as an alias"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: %{SECRET}", id="as broken YAML"),
    pytest.param("password: env:SHOP_POSTGRES_PASSWORD", f"password: a: {SECRET}", id="as other broken YAML"),
    pytest.param(
        "password: env:SHOP_POSTGRES_PASSWORD", f"password: {SECRET}\n      password: {SECRET}", id="in a duplicate key"
    ),
    pytest.param("tsig: {name: recovery-key, secret: env:DNS_TSIG_SECRET}", f"tsig: {SECRET}", id="above a reference"),
    pytest.param("http://127.0.0.1:8301", f"http://backup:{SECRET}@127.0.0.1:8301", id="in an address"),
    pytest.param("s3://recovery-a/points", f"s3://key:{SECRET}@recovery-a/points", id="in a store's address"),
    pytest.param("url: env:RECOVERY_WEBHOOK_URL", f"url: slack://{SECRET}", id="in a notification address"),
    pytest.param(
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        f"AGE-SECRET-KEY-1{SECRET}",
        id="private age key",
    ),
    pytest.param(
        "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", f"ed25519-secret:{SECRET}", id="private signing key"
    ),
    pytest.param("ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", SECRET, id="signing key without prefix"),
]


DELETED = "You can't perform this operation on the secret because it was marked for deletion."


@pytest.mark.parametrize(("old", "new"), PLACES)
def test_an_error_never_repeats_a_secret(spoiled: Callable[..., str], old: str, new: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        Config.parse(spoiled((old, new)))
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.mistakes)
    assert SECRET not in told
    assert caught.value.__context__ is None, "pydantic's error knows the values and must not be chained"


def test_pydantics_own_error_is_blind_too() -> None:
    with pytest.raises(ValidationError) as caught:
        Postgres.model_validate({"password": SECRET, "port": SECRET})
    assert SECRET not in str(caught.value)


def test_the_refusal_says_what_to_write_instead(spoiled: Callable[..., str]) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        Config.parse(spoiled(("password: env:SHOP_POSTGRES_PASSWORD", f"password: {SECRET}")))
    assert caught.value.mistakes[0].key == "groups.shop.postgres.password"
    assert caught.value.mistakes[0].text == (
        "expected a reference to a secret (env:NAME, file:/path or aws-secretsmanager:name#json-key), for example "
        "env:POSTGRES_PASSWORD; the value found is none and is not shown, because it may be the secret itself"
    )


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("env:PGPASSWORD", SecretRef(SecretScheme.ENV, "PGPASSWORD")),
        ("file:/run/secrets/pg password", SecretRef(SecretScheme.FILE, "/run/secrets/pg password")),
        ("aws-secretsmanager:shop/pg", SecretRef(SecretScheme.AWS_SECRETS_MANAGER, "shop/pg")),
        ("aws-secretsmanager:shop/pg#password", SecretRef(SecretScheme.AWS_SECRETS_MANAGER, "shop/pg", "password")),
        (
            "aws-secretsmanager:arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop-AbCdEf#password",
            SecretRef(
                SecretScheme.AWS_SECRETS_MANAGER,
                "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop-AbCdEf",
                "password",
            ),
        ),
    ],
)
def test_references_are_read_and_written_alike(text: str, reference: SecretRef) -> None:
    assert SecretRef.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "env:",
        "env:1A",
        "env:A B",
        "file:",
        "file:relative",
        "aws-secretsmanager:",
        "aws-secretsmanager:a b",
        "x",
        None,
        7,
    ],
)
def test_what_is_no_reference_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a reference to a secret"):
        SecretRef.parse(text)


class FakeSecretsManager:
    """Answers as AWS does; ``failure`` is raised instead."""

    def __init__(self, secrets: Mapping[str, Any], failure: Exception | None = None, delay: float = 0) -> None:
        self.secrets, self.failure, self.delay = secrets, failure, delay

    def get_secret_value(self, *, SecretId: str) -> Mapping[str, Any]:  # noqa: N803
        time.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        if SecretId not in self.secrets:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "no"}}, "GetSecretValue")
        return dict(self.secrets[SecretId])


AWS = {
    "plain": {"SecretString": SECRET},
    "binary": {"SecretBinary": SECRET.encode()},
    "shop": {"SecretString": json.dumps({"password": SECRET, "port": 5432, "nested": {"a": SECRET}})},
    "nothing": {"SecretString": ""},
}


@pytest.fixture
async def secrets() -> AsyncIterator[Secrets]:
    resolver = Secrets(environment={"PGPASSWORD": SECRET + "\n", "EMPTY": ""}, client=FakeSecretsManager(AWS))
    yield resolver
    resolver.close()


@pytest.mark.parametrize(
    "reference",
    ["env:PGPASSWORD", "aws-secretsmanager:plain", "aws-secretsmanager:binary", "aws-secretsmanager:shop#password"],
)
async def test_a_reference_is_resolved(secrets: Secrets, reference: str) -> None:
    assert await secrets.resolve(SecretRef.parse(reference)) == SECRET


async def test_a_file_is_read_without_its_last_newline_and_afresh_each_time(secrets: Secrets, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f" {SECRET}\n")
    reference = SecretRef.parse(f"file:{tmp_path}/password")
    assert await secrets.resolve(reference) == f" {SECRET}"
    (tmp_path / "password").write_text("rotated")
    assert await secrets.resolve(reference) == "rotated"


async def test_the_redactor_knows_a_secret_before_anybody_else() -> None:
    told: list[str] = []
    resolver = Secrets(environment={"A": SECRET}, handed_out=told.append)
    assert await resolver.resolve(SecretRef.parse("env:A")) == SECRET
    assert told == [SECRET]
    resolver.close()


@pytest.mark.parametrize(
    ("reference", "kind", "said"),
    [
        ("env:NOT_SET", NotFound, "env:NOT_SET is not set: set the environment variable"),
        ("env:EMPTY", BadInput, "env:EMPTY is empty"),
        ("aws-secretsmanager:unknown", NotFound, "does not exist in AWS Secrets Manager"),
        ("aws-secretsmanager:shop#pasword", NotFound, "it has nested, password, port"),
        ("aws-secretsmanager:shop#nested", NotFound, "no text under this key"),
        ("aws-secretsmanager:plain#password", BadInput, "is no JSON object"),
        ("aws-secretsmanager:nothing", BadInput, "is empty"),
    ],
)
async def test_what_cannot_be_resolved_is_said(
    secrets: Secrets, reference: str, kind: type[RecoveryError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        await secrets.resolve(SecretRef.parse(reference))
    assert said in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_files_that_are_no_secret(secrets: Secrets, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="put the secret into this file"):
        await secrets.resolve(SecretRef.parse(f"file:{tmp_path}/nowhere"))
    with pytest.raises(BadInput, match="cannot be read"):
        await secrets.resolve(SecretRef.parse(f"file:{tmp_path}"))
    (tmp_path / "binary").write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(BadInput, match="no UTF-8 text") as caught:
        await secrets.resolve(SecretRef.parse(f"file:{tmp_path}/binary"))
    assert caught.value.__context__ is None, "the decoding error holds the bytes"
    (tmp_path / "large").write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(BadInput, match="larger than 64 KiB"):
        await secrets.resolve(SecretRef.parse(f"file:{tmp_path}/large"))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ClientError({"Error": {"Code": "AccessDeniedException"}}, "GetSecretValue"), Refused),
        (ClientError({"Error": {"Code": "InternalServiceError"}}, "GetSecretValue"), Unreachable),
        (ClientError({"Error": {"Code": "ThrottlingException"}}, "GetSecretValue"), Unreachable),
        (ClientError({"Error": {"Code": "InvalidRequestException", "Message": DELETED}}, "GetSecretValue"), NotFound),
        (ClientError({"Error": {"Code": "InvalidParameterException"}}, "GetSecretValue"), BadInput),
        (ClientError({"Error": {"Code": "ExpiredTokenException"}}, "GetSecretValue"), Refused),
        (NoCredentialsError(), Refused),
        (NoRegionError(), BadInput),
        (EndpointConnectionError(endpoint_url="https://secretsmanager.example"), Unreachable),
    ],
)
async def test_failures_of_aws_are_told_apart(failure: Exception, kind: type[RecoveryError]) -> None:
    resolver = Secrets(client=FakeSecretsManager({}, failure))
    with pytest.raises(kind):
        await resolver.resolve(SecretRef.parse("aws-secretsmanager:shop"))
    resolver.close()


async def test_a_deleted_secret_is_said_to_be_deleted() -> None:
    failure = ClientError({"Error": {"Code": "InvalidRequestException", "Message": DELETED}}, "GetSecretValue")
    resolver = Secrets(client=FakeSecretsManager({}, failure))
    with pytest.raises(NotFound, match=r"was marked for deletion\.\): restore the secret"):
        await resolver.resolve(SecretRef.parse("aws-secretsmanager:shop"))
    resolver.close()


async def test_a_secret_is_asked_for_in_the_region_that_its_arn_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def client(service: str, *, region_name: str | None, config: Any) -> FakeSecretsManager:
        asked.append(region_name)
        return FakeSecretsManager(AWS | {arn: AWS["plain"]})

    monkeypatch.setattr("recovery.adapters.secrets.make_client", client)
    arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop-AbCdEf"
    resolver = Secrets(region="us-east-1")
    for name in (arn, "plain", arn):
        await resolver.resolve(SecretRef.parse(f"aws-secretsmanager:{name}"))
    assert asked == ["eu-west-1", "us-east-1"]
    resolver.close()


async def test_a_silent_aws_does_not_hold_anybody_up() -> None:
    resolver = Secrets(client=FakeSecretsManager(AWS, delay=0.5), timeout=0.05)
    with pytest.raises(Unreachable, match=r"not read within 0\.05 s"):
        await resolver.resolve(SecretRef.parse("aws-secretsmanager:plain"))
    resolver.close()
