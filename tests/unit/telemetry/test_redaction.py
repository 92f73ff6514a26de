"""No secret survives in text, and ordinary text survives unchanged."""

from __future__ import annotations

import base64
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.telemetry.redaction import LONGEST_TEXT, Redactor

SECRET = "hunter2-Zq9"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://shop:{SECRET}@db.example:5432/shop?sslmode=require",
        f"connecting to redis://:{SECRET}@10.0.0.1:6379/0 failed",
        f"postgresql://shop:p@ss/{SECRET}@db.example/shop",
        f"host=db user=shop password={SECRET} dbname=shop",
        f"host=db password='two words {SECRET}' dbname=shop",
        f"ALTER ROLE shop PASSWORD '{SECRET}'",
        f'{{"password": "{SECRET}", "user": "shop"}}',
        f'{{"db_password": "a\\"b{SECRET}"}}',
        f"{{'aws_secret_access_key': '{SECRET}'}}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"PGPASSWORD={SECRET} pg_dump",
        f"https://bucket.example/key?X-Amz-Expires=60&X-Amz-Signature={SECRET}&x=1",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'Basic {SECRET}'}}",
        f"slack://bot@{SECRET}/B1HJG/xoxb/#general",
        f"pagerduty://{SECRET}@integration",
        f"mailtos://user:{SECRET}@example.com?to=a@b.c",
        f"jsons://ops.example/hook/{SECRET}",
        f"https://hooks.slack.com/services/T000/B000/{SECRET}",
        f"https://discord.com/api/webhooks/12/{SECRET}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n(cut off)",
        f"token={SECRET}",
        f"password: {SECRET}",
    ],
)
def test_recognisable_secrets_are_masked(text: str) -> None:
    masked = Redactor().mask(text)
    assert SECRET not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "secret",
    [
        "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQY",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzaG9wIn0.c2lnbmF0dXJl",
    ],
)
def test_keys_that_need_no_context_are_masked(secret: str) -> None:
    masked = Redactor().mask(f"found {secret} in the file")
    assert secret not in masked
    assert masked.startswith("found ")
    assert masked.endswith(" in the file")


@pytest.mark.parametrize(
    "text",
    [
        "restore-database took 42 s: 1.2 GiB at 52 MiB/s from s3://backup-primary/shop/2026-11-22/",
        "GET http://127.0.0.1:9090/metrics?x=1 answered 200",
        "postgresql://shop@db.example:5432/shop is ready",
        "The password of role shop is wrong: password authentication failed for user shop",
        "secret reference env:POSTGRES_PASSWORD is not set",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq is a recipient",
        "mailbox ops@example.com, 3:04 o'clock",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert Redactor().mask(text) == text


def test_registered_values_are_masked_in_every_form() -> None:
    redactor = Redactor()
    secret = 'v@l ue/"7%'
    redactor.register(secret)
    for form in (
        secret,
        quote(secret, safe=""),
        secret.replace('"', '\\"'),
        base64.b64encode(secret.encode()).decode(),
    ):
        masked = redactor.mask(f"<{form}>")
        assert form not in masked, form
        assert masked.startswith("<***")


def test_longer_secret_wins_over_its_own_beginning() -> None:
    redactor = Redactor()
    redactor.register("abcd", "abcdefgh")
    assert redactor.mask("x abcdefgh y") == "x *** y"


def test_each_line_of_a_registered_key_file_counts() -> None:
    redactor = Redactor()
    redactor.register("first-line-secret\nsecond-line-secret\n")
    assert redactor.mask("error near second-line-secret") == "error near ***"


def test_short_values_do_not_blank_out_everything() -> None:
    redactor = Redactor()
    redactor.register("", "a", "pg")
    assert redactor.mask("a page") == "a page"


@given(
    st.text(min_size=4, max_size=40).filter(lambda s: len(s.strip()) >= 4), st.text(max_size=50), st.text(max_size=50)
)
def test_no_registered_value_survives(secret: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.register(secret)
    assert secret.strip() not in redactor.mask(before + secret + after).replace("***", "")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a://" + ":" * 60_000,
        "password=" * 8_000,
        "token " * 10_000,
        "-" * 60_000,
        "x:y@" * 15_000,
        "a://b:" * 10_000,
        "password '" * 6_000,
        "authorization " * 4_000,
        "-----BEGIN " * 5_000,
        "password" + " " * 60_000,
    ],
)
def test_masking_time_is_bounded(text: str) -> None:
    began = time.perf_counter()
    Redactor().mask(text)
    assert time.perf_counter() - began < 2


def test_endless_text_is_cut() -> None:
    assert len(Redactor().mask("x" * 10 * LONGEST_TEXT)) < LONGEST_TEXT + 100
