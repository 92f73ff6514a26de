"""Names, addresses, paths and public keys: text that has to have a form."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

import pyrage
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from recovery.backup import age
from recovery.config.values import expected, withheld
from recovery.domain.group import ALL_STREAMS

_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def _matching(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise expected(what)
        return value

    return AfterValidator(check)


def port(value: object) -> int:
    """A TCP port, as a number or as digits."""
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 6 else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
        raise expected("a TCP port between 1 and 65535, for example 5432")
    return number


def _listen_port(value: object) -> int:
    return 0 if value in (0, "0") and not isinstance(value, bool) else port(value)


def is_host(text: str) -> bool:
    """A DNS name or an IP address (IPv6 without brackets)."""
    try:
        ip_address(text)
    except ValueError:
        return bool(_HOST.fullmatch(text)) and not re.fullmatch(r"[\d.]+", text)
    return True


def host(value: str) -> str:
    if not is_host(value):
        raise expected("a host name or an IP address, for example postgres-primary.us-east-1.example.com")
    return value


def split_address(value: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``. Raises ValueError."""
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?", value)
    name, digits = (
        bracketed.groups() if bracketed else (value.rpartition(":")[::2] if value.count(":") == 1 else (value, None))
    )
    if not name or not is_host(name) or (digits is not None and not (digits.isdecimal() and 1 <= int(digits) <= 65535)):
        raise ValueError("no address")
    return name, None if digits is None else int(digits)


def _address(example: str, *, with_port: bool) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            _, number = split_address(value)
        except ValueError:
            raise expected(f"host{':port' if with_port else ' or host:port'}, for example {example}") from None
        if with_port and number is None:
            raise expected(f"host:port, for example {example}")
        return value

    return check


def _web(value: str) -> str:
    try:
        parts = urlsplit(value)
        number = parts.port
    except ValueError:
        raise expected("an http or https address, for example https://shop.example.com/healthz") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_host(parts.hostname) or number == 0:
        raise expected("an http or https address, for example https://shop.example.com/healthz")
    if parts.username is not None or parts.password is not None:
        raise withheld(NO_PASSWORD)
    return value


NO_PASSWORD = "an address without user and password in it (a password belongs behind a reference such as env:NAME)"


def _store(value: str) -> str:
    """``s3://bucket/prefix`` or ``file:///folder``, without a slash at its end."""
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise withheld(NO_PASSWORD)
    is_s3 = parts.scheme == "s3" and bool(_BUCKET.fullmatch(parts.netloc))
    is_folder = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    if not (is_s3 or is_folder) or parts.query or parts.fragment or ".." in parts.path.split("/"):
        raise expected("s3://bucket/prefix or file:///folder, for example s3://backup-primary/shop")
    return value.rstrip("/")


def _recipient(value: str) -> str:
    """An age public key, X25519."""
    text = value.strip()
    if "PRIVATE" in text.upper() or "SECRET-KEY" in text.upper():
        raise withheld(
            "a public key (age1...), and this is a private one: put it behind keys.identities as a reference, "
            "and make a new one, since this one was written down here"
        )
    if text.startswith("ssh-"):
        raise expected(
            "an age public key (age1...), the only kind that recovery points are sealed for, and this is an SSH key: "
            "make a key pair with age-keygen"
        )
    try:
        age.public_key(str(pyrage.x25519.Recipient.from_str(text)))
    except ValueError:
        raise expected(
            "an age public key that somebody has the private half of, and this one is nobody's (a point of small "
            "order): take what age-keygen printed"
        ) from None
    except pyrage.RecipientError:
        raise expected(
            "an age public key, for example age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p "
            "(age-keygen prints it), complete and without a typing error"
        ) from None
    return text


def _signer(value: str) -> str:
    """An Ed25519 public key as :mod:`recovery.backup.signing` writes it: ``ed25519:`` and 32 bytes in base64."""
    if value.startswith("ed25519-secret:"):
        raise withheld(
            "a public key (ed25519:...), and this is a private one: put it behind keys.signing_key as a reference, "
            "and make a new one, since this one was written down here"
        )
    try:
        raw = base64.b64decode(value.removeprefix("ed25519:"), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not value.startswith("ed25519:") or len(raw) != 32:
        # Not shown: whoever takes a private key for a public one leaves out its prefix, too.
        raise withheld(
            "an Ed25519 public key: ed25519: and 44 base64 characters, "
            "for example ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        )
    return value


def _plan(value: str) -> str:
    """A plan's name as the tables have it; ``full-recovery`` becomes ``FullRecovery``."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", value):
        raise expected("a plan's name, for example FullRecovery (drctl plan show lists them)")
    return "".join(part[:1].upper() + part[1:] for part in value.split("-"))


def _dns_name(value: str) -> str:
    name = value.rstrip(".").lower()
    if "." not in name or not _HOST.fullmatch(name.removeprefix("*.")):
        raise expected("a full DNS name, for example api.shop-platform.com")
    return name


def _seconds(value: object) -> int:
    """Whole seconds: a number, or the same with its unit (``60``, ``60s``)."""
    text = value.strip().removesuffix("s") if isinstance(value, str) else value
    number = int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else text
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= 2**31 - 1:
        raise expected("a whole number of seconds above 0, for example 60")
    return number


Name = Annotated[
    str,
    _matching(
        r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a name of small letters, digits and hyphens, for example shop-eu"
    ),
]
SqlName = Annotated[
    str, _matching(r"[^\x00-\x1f\x7f]{1,63}", "a PostgreSQL name of at most 63 characters, for example shop")
]
TableName = Annotated[
    str,
    _matching(
        r"[^\x00-\x1f\x7f.]{1,63}(\.[^\x00-\x1f\x7f.]{1,63}){0,2}",
        "a table as table, schema.table or database.schema.table, for example public.users",
    ),
]
_STREAM = r"[^\s.*>/\\\x00-\x1f]{1,255}"
_STREAM_WORDS = "a JetStream stream's name without spaces, dots, * and >, for example events"


def _streams(value: object) -> object:
    """A list, or ``all``, which is kept as a list that no stream's name can be."""
    if value == "all":
        return [ALL_STREAMS]
    if isinstance(value, list) and ALL_STREAMS in value:
        if len(value) > 1:
            raise expected("names of streams, or all, and not both")
    elif not isinstance(value, list):
        raise expected("a list of streams' names, or all, for example [events, commands, audit]")
    return value


_Stream = Annotated[str, _matching(rf"{_STREAM}|\*", _STREAM_WORDS)]
StreamNames = Annotated[
    list[_Stream],
    BeforeValidator(_streams),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "all", "type": "string"},
                {"items": {"type": "string"}, "minItems": 1, "type": "array"},
            ]
        }
    ),
]
DomainName = Annotated[
    str, _matching(r"[^\s.*>/\\\x00-\x1f]{1,255}", "a JetStream domain without spaces, dots, * and >, for example hub")
]


class Own:
    """Marks what each process may say otherwise, and yet means the same: how something is reached from where it runs,
    and where it keeps a file of its own. Processes need not agree on it (``recovery.config.snapshot.hash_of``)."""


Port = Annotated[int, BeforeValidator(port)]
OwnPort = Annotated[Port, Own]
ListenPort = Annotated[int, BeforeValidator(_listen_port)]
Host = Annotated[str, AfterValidator(host), Own]
HostPort = Annotated[str, AfterValidator(_address("temporal.example.com:7233", with_port=True)), Own]
Address = Annotated[str, AfterValidator(_address("nats-cluster-us-east-1.example.com:4222", with_port=False)), Own]
WebAddress = Annotated[str, AfterValidator(_web), Own]
WebPath = Annotated[str, _matching(r"/[!-~]*", "a path that begins with a slash, for example /healthz")]
StoreUrl = Annotated[str, AfterValidator(_store)]
AbsolutePath = Annotated[str, _matching(r"/[^\x00-\x1f]*", "an absolute path, for example /var/lib/postgresql/16/main")]
OwnFile = Annotated[AbsolutePath, Own]
DnsName = Annotated[str, AfterValidator(_dns_name)]
Recipient = Annotated[str, AfterValidator(_recipient)]
PlanName = Annotated[str, AfterValidator(_plan)]
Signer = Annotated[str, AfterValidator(_signer)]
Seconds = Annotated[int, BeforeValidator(_seconds)]
