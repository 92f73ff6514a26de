"""Signed manifests and verdicts as bytes, and back."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from recovery.backup.layout import check_manifest_place
from recovery.backup.signing import Signer, Verifier, payload_digest
from recovery.domain.recovery_point import Manifest, Verdict
from recovery.errors import Corrupt

FORMAT = 1


@dataclass(frozen=True)
class SignedManifest:
    """``body`` are the stored bytes, ``digest`` the SHA-256 (hex) by which verdicts name the manifest."""

    manifest: Manifest
    body: bytes
    digest: str


def sign_manifest(manifest: Manifest, signer: Signer) -> SignedManifest:
    payload = manifest.model_dump(mode="json")
    return SignedManifest(manifest=manifest, body=signer.sign(payload), digest=payload_digest(payload))


def read_manifest(body: bytes, verifier: Verifier, *, group: str, point_id: str) -> SignedManifest:
    """The manifest stored at the point's place.

    Raises:
        Corrupt: a byte changed, it is unsigned, it belongs elsewhere, or its format is newer than this program.
        WrongKey: an untrusted key signed it.
    """
    document = verifier.verify(body)
    written_format = document.payload.get("format")
    if written_format != FORMAT:
        raise Corrupt(f"its format is {written_format!r}; this version reads format {FORMAT}: use a newer one")
    try:
        manifest = Manifest.model_validate(document.payload)
    except ValidationError as error:
        raise Corrupt(f"it is no manifest: {error.error_count()} fields are missing or wrong") from error
    check_manifest_place(manifest, group, point_id)
    return SignedManifest(manifest=manifest, body=body, digest=document.digest)


def sign_verdict(verdict: Verdict, signer: Signer) -> bytes:
    return signer.sign(verdict.model_dump(mode="json"))


def read_verdict(body: bytes, verifier: Verifier, *, group: str, point_id: str) -> Verdict:
    """The verdict stored beside the point's manifest.

    Raises:
        Corrupt: a byte changed, it is unsigned, or it belongs elsewhere.
        WrongKey: an untrusted key signed it.
    """
    document = verifier.verify(body)
    try:
        verdict = Verdict.model_validate(document.payload)
    except ValidationError as error:
        raise Corrupt(f"it is no verdict: {error.error_count()} fields are missing or wrong") from error
    if (verdict.group, verdict.point_id) != (group, point_id):
        raise Corrupt(f"it belongs to {verdict.group}/{verdict.point_id}")
    return verdict
