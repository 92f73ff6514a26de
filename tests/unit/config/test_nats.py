"""Which streams a group means, and how it logs in to their servers."""

from __future__ import annotations

import pytest

from recovery.config import Config
from recovery.domain.group import ALL_STREAMS
from tests.unit.config.conftest import MINIMAL

STREAMS = "    nats: {nats}\n    postgres:\n      databases"


def text_of(nats: str, *, guard: bool = False) -> str:
    text = MINIMAL.read_text().replace("    postgres:\n      databases", STREAMS.replace("{nats}", nats))
    for region, address in (("region-a", "127.0.0.1"), ("region-b", "127.0.0.2")):
        text = text.replace(
            f"        dns_value: {address}\n", f"        dns_value: {address}\n        nats: {address}\n"
        )
        if guard:
            text = text.replace(f"  {region}: {{role", f"  {region}: {{guard: 'http://{address}:7450', role")
    return text + ("guards: {token: env:GUARD_TOKEN}\n" if guard else "")


@pytest.mark.parametrize(
    ("written", "streams", "chosen"),
    [
        ("all", [ALL_STREAMS], None),
        ('["*"]', [ALL_STREAMS], None),  # as drctl config show prints it
        ("[events, audit]", ["events", "audit"], ["events", "audit"]),
    ],
)
def test_all_streams_or_some(written: str, streams: list[str], chosen: list[str] | None) -> None:
    config = Config.parse(text_of(f"{{streams: {written}}}"))
    assert (config.snapshot("shop").streams, config.snapshot("shop").chosen_streams) == (streams, chosen)
    assert config.public()["groups"]["shop"]["nats"]["streams"] == streams


@pytest.mark.parametrize(
    ("nats", "key", "said"),
    [
        ("{streams: [all, '*']}", "streams", "expected names of streams, or all, and not both"),
        ("{streams: every}", "streams", "expected a list of streams' names, or all"),
        ("{streams: []}", "streams", "expected at least one entry"),
        ("{streams: ['ev*']}", "streams[0]", "expected a JetStream stream's name"),
        ("{streams: all, domain: 'a.b'}", "domain", "expected a JetStream domain without spaces"),
        (
            "{streams: all, user: x, credentials: 'env:X'}",
            "",
            "expected user and password, or credentials, and not both",
        ),
    ],
)
def test_what_is_none_is_said(nats: str, key: str, said: str, mistakes_of: object) -> None:
    (mistake,) = mistakes_of(text_of(nats))  # type: ignore[operator]
    assert mistake.key == f"groups.shop.nats.{key}".rstrip(".")
    assert mistake.text.startswith(said)


def test_guards_need_names_and_users_and_domains_of_their_own(mistakes_of: object) -> None:
    nats = "{streams: all, credentials: 'env:X', domain: hub}"
    Config.parse(text_of(nats))
    mistakes = mistakes_of(text_of(nats, guard=True))  # type: ignore[operator]
    assert {mistake.key.rpartition(".")[2] for mistake in mistakes} == {"streams", "credentials", "domain"}
    assert all("region-a" in mistake.text for mistake in mistakes)
    Config.parse(text_of("{streams: [events], user: recovery, password: 'env:X'}", guard=True))


@pytest.mark.parametrize(
    ("login", "policy", "warned"),
    [("credentials: env:CREDS", "automatic", True), ("credentials: env:CREDS", "approve", False),
     ("user: recovery, password: env:NATS", "automatic", False)],
)  # fmt: skip
def test_a_guard_that_logs_in_by_jwt_has_no_fence(login: str, policy: str, warned: bool) -> None:
    text = text_of(f"{{streams: all, {login}}}").replace(
        "tier: critical", f"tier: critical\n    failover: {{policy: {policy}}}"
    )
    found = [warning for warning in Config.parse(text).warnings() if warning.startswith("groups.shop.nats.credentials")]
    assert bool(found) is warned and all("automatic asks a person first" in warning for warning in found)
