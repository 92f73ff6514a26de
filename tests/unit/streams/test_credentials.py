"""A ``.creds`` file logs in, another text is refused without being repeated, and a domain is asked by its own name."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from recovery.adapters.nats.connection import DomainClient, NatsLogin, NatsServer, api, api_prefix
from recovery.adapters.nats.credentials import UserCredentials
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.errors import BadInput
from tests.fakes.jetstream import FakeJetStream, Message
from tests.fakes.nats_keys import Operator
from tests.unit.config.conftest import MINIMAL
from workers.jetstream import nats_server


def test_the_jwt_is_shown_and_the_seed_signs() -> None:
    operator = Operator()
    found = UserCredentials.parse(operator.creds, "nats.credentials")
    options = found.options()
    signature = base64.b64decode(options["signature_cb"]("a-nonce"))
    operator.user.private.public_key().verify(signature, b"a-nonce")
    assert options["user_jwt_cb"]().decode() in operator.creds
    login = NatsLogin(user="ignored", password="x", credentials=found)
    assert set(login.options()) == {"user_jwt_cb", "signature_cb"}
    assert operator.user.seed not in repr(login)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda operator: operator.user.seed,
        lambda operator: operator.creds.replace("USER NKEY", "NKEY"),
        lambda operator: operator.creds.replace(operator.user.seed, operator.account.seed),
        lambda operator: operator.creds.replace(operator.user.seed, operator.user.seed[:-4]),
        lambda operator: operator.creds.replace(operator.user.seed[9:13], "AAAA"),
        lambda operator: "",
    ],
)  # fmt: skip
def test_another_text_is_refused_and_not_repeated(spoil: object) -> None:
    operator = Operator()
    with pytest.raises(BadInput, match=r"groups.shop.nats.credentials: expected the content of a .creds file") as said:
        UserCredentials.parse(spoil(operator), "groups.shop.nats.credentials")  # type: ignore[operator]
    assert operator.user.seed[4:20] not in str(said.value)
    assert said.value.__cause__ is None


async def test_a_domain_is_asked_by_its_name() -> None:
    asked: list[str] = []

    class Asked(DomainClient):
        async def request(self, subject: str, *rest: object, **options: object) -> Message:  # type: ignore[override]
            asked.append(subject)
            return Message(b"{}")

    await api(Asked("hub"), "STREAM.INFO.events")
    await api(Asked(None), "INFO")
    assert asked == ["$JS.hub.API.STREAM.INFO.events", "$JS.API.INFO"]
    assert api_prefix(FakeJetStream()) == "$JS.API"  # type: ignore[arg-type]


def with_nats(settings: str) -> Config:
    text = MINIMAL.read_text().replace(
        "    postgres:\n      databases", f"    nats: {settings}\n    postgres:\n      databases"
    )
    for number in (0, 1):
        text = text.replace(
            f"        dns_value: 127.0.0.{number + 1}\n",
            f"        dns_value: 127.0.0.{number + 1}\n        nats: 127.0.0.1:422{number}\n",
        )
    return Config.parse(text)


async def test_the_configuration_s_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    operator = Operator()
    file = tmp_path / "nats.creds"
    config = with_nats(f"{{streams: all, credentials: 'file:{file}', domain: hub}}")
    assert config.snapshot("shop").chosen_streams is None
    assert operator.user.seed not in config.snapshot("shop").model_dump_json()
    secrets = Secrets()
    try:
        file.write_text("nothing of it")
        with pytest.raises(BadInput, match="groups.shop.nats.credentials"):
            await nats_server(config, secrets, "shop", "region-a")
        file.write_text(operator.creds)
        server = await nats_server(config, secrets, "shop", "region-a")
    finally:
        secrets.close()
    assert isinstance(server, NatsServer)
    assert (server.login.domain, server.login.credentials is not None) == ("hub", True)


async def test_the_name_in_the_servers_certificate_may_be_another_than_its_address() -> None:
    config, secrets = with_nats("{streams: all, tls: {server_name: nats.shop.example.com}}"), Secrets()
    try:
        server = await nats_server(config, secrets, "shop", "region-a")
    finally:
        secrets.close()
    assert server.login.server_name == "nats.shop.example.com"
