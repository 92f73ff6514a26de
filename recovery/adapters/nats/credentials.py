"""Logging in to NATS with a ``.creds`` file: a user's JWT, and the seed that signs the server's nonce.

Form of the file and of seeds: https://docs.nats.io/using-nats/developer/connecting/creds and ``nats-io/nkeys``: base32
without padding of two bytes of prefix (``SU`` for a user's seed), 32 of the Ed25519 seed, and their CRC-16.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recovery.errors import BadInput

_BLOCK = re.compile(r"-+\s*BEGIN (NATS USER JWT|USER NKEY SEED)\s*-+\s*([A-Za-z0-9_.=-]+?)\s*-+\s*END [A-Z ]+-+")
_SEED_BYTES = 36


@dataclass(frozen=True)
class UserCredentials:
    """``jwt`` is public, ``key`` signs."""

    jwt: str
    key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def parse(cls, text: str, where: str) -> UserCredentials:
        """Of a file's content.

        Raises:
            BadInput: it is none; ``where`` says whose, and the content is never repeated.
        """
        found: dict[str, str] = dict(_BLOCK.findall(text))
        try:
            jwt, seed = found["NATS USER JWT"], found["USER NKEY SEED"]
            return cls(jwt, Ed25519PrivateKey.from_private_bytes(_raw(seed)))
        except (KeyError, ValueError):
            pass
        raise BadInput(
            f"{where}: expected the content of a .creds file, with a NATS USER JWT and a USER NKEY SEED, as of nsc"
        )

    def options(self) -> dict[str, Any]:
        """Arguments of nats-py's ``connect``."""
        return {"user_jwt_cb": self._jwt, "signature_cb": self._sign}

    def _jwt(self) -> bytes:
        return self.jwt.encode()

    def _sign(self, nonce: str) -> bytes:
        return base64.b64encode(self.key.sign(nonce.encode()))


def _raw(seed: str) -> bytes:
    """The Ed25519 seed. Raises ValueError."""
    decoded = base64.b32decode(seed + "=" * (-len(seed) % 8))
    if not seed.startswith("SU") or len(decoded) != _SEED_BYTES:
        raise ValueError("no user's seed")
    if binascii.crc_hqx(decoded[:-2], 0) != int.from_bytes(decoded[-2:], "little"):
        raise ValueError("its checksum is wrong")
    return decoded[2:-2]
