"""Ed25519 signatures (RFC 8032) of manifests and verdicts.

A document is stored as ``{"payload": {...}, "signature": {"algorithm", "key_id", "value"}}`` in canonical JSON: keys
sorted, no white space, UTF-8. The signature is over the canonical JSON of the payload. Only the exact canonical bytes
are accepted when it is read back, so that no byte of a stored document can change unnoticed.

Keys are text: ``ed25519-secret:<base64 of the 32-byte seed>`` and ``ed25519:<base64 of the 32-byte public key>``.
The key id is the first 16 hexadecimal digits of the public key's SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from recovery.errors import BadInput, Corrupt, WrongKey

ALGORITHM = "ed25519"
SECRET_PREFIX = "ed25519-secret:"
PUBLIC_PREFIX = "ed25519:"


@dataclass(frozen=True)
class SigningKey:
    """``secret`` (``ed25519-secret:...``) signs, ``public`` (``ed25519:...``) verifies."""

    secret: str
    public: str

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public!r})"


@dataclass(frozen=True)
class SignedDocument:
    """A verified document. ``digest`` is the SHA-256 (hex) of the payload's canonical JSON."""

    payload: dict[str, Any]
    digest: str
    key_id: str


def generate_signing_key() -> SigningKey:
    private = Ed25519PrivateKey.generate()
    return SigningKey(
        secret=SECRET_PREFIX + base64.b64encode(private.private_bytes_raw()).decode(),
        public=_public_text(private.public_key()),
    )


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no white space, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def payload_digest(payload: dict[str, Any]) -> str:
    """SHA-256 (hex) of the payload's canonical JSON: what a verdict names its manifest by."""
    return hashlib.sha256(canonical_json(payload)).hexdigest()


class Signer:
    """Signs with one private key.

    Raises:
        BadInput: the text is no private key. The message never repeats it.
    """

    def __init__(self, private_key: str) -> None:
        seed = _decode(private_key, SECRET_PREFIX, "a signing key is ed25519-secret: and 44 base64 characters")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = _public_text(self._private.public_key())
        self.key_id = _key_id(self._private.public_key())

    def __repr__(self) -> str:
        return f"Signer(key_id={self.key_id!r})"

    def sign(self, payload: dict[str, Any]) -> bytes:
        """The document's bytes as they are stored."""
        value = base64.b64encode(self._private.sign(canonical_json(payload))).decode()
        signature = {"algorithm": ALGORITHM, "key_id": self.key_id, "value": value}
        return canonical_json({"payload": payload, "signature": signature})


class Verifier:
    """Accepts documents signed by one of ``trusted`` (public keys).

    Raises:
        BadInput: a text that is no public key, or none at all.
    """

    def __init__(self, trusted: list[str]) -> None:
        if not trusted:
            raise BadInput("no trusted signing key is configured: without one no manifest can be believed")
        self._trusted: dict[str, Ed25519PublicKey] = {}
        for text in trusted:
            raw = _decode(text, PUBLIC_PREFIX, "a trusted key is ed25519: and 44 base64 characters")
            public = Ed25519PublicKey.from_public_bytes(raw)
            self._trusted[_key_id(public)] = public

    @property
    def key_ids(self) -> list[str]:
        return sorted(self._trusted)

    def verify(self, body: bytes) -> SignedDocument:
        """The payload of a stored document.

        Raises:
            Corrupt: it is no document of this form, a byte of it changed, it is unsigned or its signature is bad.
            WrongKey: it is signed by a key that is not trusted here.
        """
        envelope = _parse(body)
        payload, signature = envelope["payload"], envelope["signature"]
        public = self._trusted.get(signature["key_id"])
        if public is None:
            known = ", ".join(self.key_ids)
            raise WrongKey(f"it is signed by the unknown key {signature['key_id'][:40]!r}; trusted are {known}")
        try:
            public.verify(_signature_bytes(signature["value"]), canonical_json(payload))
        except InvalidSignature as error:
            raise Corrupt("its signature does not fit its content") from error
        return SignedDocument(payload=payload, digest=payload_digest(payload), key_id=signature["key_id"])


def _parse(body: bytes) -> dict[str, Any]:
    """The envelope, when its form and its spelling are exactly ours."""
    try:
        envelope = json.loads(body)
        canonical = canonical_json(envelope)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, NaN, a lone surrogate
        raise Corrupt("it is no JSON document") from error
    if not isinstance(envelope, dict) or set(envelope) - {"payload", "signature"} or "payload" not in envelope:
        raise Corrupt("it is no signed document: expected payload and signature")
    signature = envelope.get("signature")
    if signature is None:
        raise Corrupt("it is not signed")
    if not isinstance(envelope["payload"], dict) or not isinstance(signature, dict):
        raise Corrupt("it is no signed document: payload and signature must be objects")
    if set(signature) != {"algorithm", "key_id", "value"} or not all(isinstance(v, str) for v in signature.values()):
        raise Corrupt("its signature must have exactly algorithm, key_id and value")
    if signature["algorithm"] != ALGORITHM:
        raise Corrupt(f"its signature's algorithm must be {ALGORITHM}")
    if canonical != body:
        raise Corrupt("its bytes are not the canonical form of its content")
    return envelope


def _signature_bytes(text: str) -> bytes:
    """Strict base64: the unused bits of the last character must not carry a second spelling."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Corrupt("its signature is not base64") from error
    if base64.b64encode(value).decode() != text:
        raise Corrupt("its signature is not canonical base64")
    return value


def _decode(text: str, prefix: str, expected: str) -> bytes:
    text = text.strip()
    try:
        raw = base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"a key cannot be read: {expected}") from error
    if not text.startswith(prefix) or len(raw) != 32:
        raise BadInput(f"a key cannot be read: {expected}")
    return raw


def _public_text(public: Ed25519PublicKey) -> str:
    return PUBLIC_PREFIX + base64.b64encode(public.public_bytes_raw()).decode()


def _key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]
