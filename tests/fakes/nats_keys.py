"""Keys and JWTs of a NATS operator, as ``nsc`` makes them. Forms: ``nats-io/nkeys`` and ``nats-io/jwt`` (version 2)."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIXES = {"operator": 14, "account": 0, "user": 20}
_SEED = 18
LIMITS = "subs data payload imports exports conn leaf mem_storage disk_storage streams consumer"


@dataclass
class Key:
    """``kind``: operator, account or user."""

    kind: str
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        return _text(bytes([PREFIXES[self.kind] << 3]) + self.private.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        number = PREFIXES[self.kind] << 3
        head = bytes([_SEED << 3 | number >> 5, (number & 31) << 3])
        return _text(head + self.private.private_bytes_raw())

    def vouches(self, other: Key, name: str, **claims: Any) -> str:
        """A JWT about another key, signed by this one."""
        body = {
            "jti": name, "iat": 1700000000, "iss": self.public, "sub": other.public, "name": name,
            "nats": {"type": other.kind, "version": 2, **claims},
        }  # fmt: skip
        parts = [_part({"typ": "JWT", "alg": "ed25519-nkey"}), _part(body)]
        signature = self.private.sign(".".join(parts).encode())
        return ".".join([*parts, _url(signature)])


@dataclass
class Operator:
    """With one account that may do everything, and one user of it."""

    own: Key = field(default_factory=lambda: Key("operator"))
    account: Key = field(default_factory=lambda: Key("account"))
    system: Key = field(default_factory=lambda: Key("account"))  # JetStream needs one where accounts have JWTs
    user: Key = field(default_factory=lambda: Key("user"))

    @property
    def creds(self) -> str:
        """The content of the user's ``.creds`` file."""
        jwt = self.account.vouches(self.user, "recovery", pub={}, sub={}, subs=-1, data=-1, payload=-1)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.user.seed}\n------END USER NKEY SEED------\n\n"
            "*************************************************************\n"
        )

    @property
    def configuration(self) -> str:
        """What the server has to have of it."""
        limits = {**dict.fromkeys(LIMITS.split(), -1), "wildcards": True}
        found = ((self.account, "shop", limits), (self.system, "SYS", None))
        jwts = ", ".join(f'{key.public}: "{self._account(key, name, limits)}"' for key, name, limits in found)
        return (
            f'operator: "{self.own.vouches(self.own, "test")}"\nresolver: MEMORY\n'
            f"system_account: {self.system.public}\nresolver_preload: {{ {jwts} }}\n"
        )

    def _account(self, key: Key, name: str, limits: dict[str, Any] | None) -> str:
        """``limits`` None: of one without JetStream."""
        plain = {**dict.fromkeys(LIMITS.split()[:7], -1), "wildcards": True}
        return self.own.vouches(key, name, limits=limits or plain, default_permissions={"pub": {}, "sub": {}})


def _text(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _part(value: dict[str, Any]) -> str:
    return _url(json.dumps(value, separators=(",", ":")).encode())


def _url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
