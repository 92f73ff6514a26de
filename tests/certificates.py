"""Certificates of the tests' own servers and clients: each vouches for itself, or an authority of the tests does."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"


def self_signed(folder: Path, name: str = LOOPBACK) -> tuple[Path, Path]:
    """Certificate (its own authority) and private key as PEM files, for an address or a name. Valid for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _builder(key, name, authority=True).issuer_name(_name(name)).sign(key, hashes.SHA256())
    return _written(folder, "tls", made, key)


def issued(folder: Path, name: str = LOOPBACK) -> tuple[Path, Path, Path]:
    """The same of an authority of its own: the authority's certificate, the certificate, and its private key."""
    signing, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    who = f"{folder.name}.authority.tests"
    root = _builder(signing, who, authority=True).issuer_name(_name(who)).sign(signing, hashes.SHA256())
    authority, _ = _written(folder, "ca", root, signing)
    made = _builder(key, name, authority=False).issuer_name(_name(who)).sign(signing, hashes.SHA256())
    return authority, *_written(folder, "tls", made, key)


def _name(words: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, words)])


def _builder(key: ec.EllipticCurvePrivateKey, name: str, *, authority: bool) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )


def _written(
    folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    public, private = folder / f"{stem}.pem", folder / f"{stem}.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private
