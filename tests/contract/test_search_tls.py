"""TLS to a search engine: its certificate is checked, also for a name that is not its address."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recovery.adapters.search.connection import SearchLogin
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.domain.search import SearchProduct
from recovery.errors import Unreachable
from tests.contract.search_answers import Disk
from tests.contract.search_api import Cluster, Door, a_door
from tests.contract.search_site import FAST

NAME = "search.shop.test"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of an authority of its own, for a name that no address here has."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "search engine of the tests")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    public, private = folder / "tls.pem", folder / "tls.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@pytest.fixture(scope="module")
async def door(certificate: tuple[Path, Path]) -> AsyncIterator[Door]:
    async with a_door(*certificate) as made:
        made.cluster = Cluster("east", Disk(), SearchProduct.OPENSEARCH, "2.19.1")
        yield made


async def test_the_name_in_the_certificate_may_differ_from_the_address(
    door: Door, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(cafile=str(certificate[0]))
    async with SearchSnapshots(door.address, SearchLogin(tls=context, server_name=NAME), FAST) as named:
        assert (await named.server()).cluster == "east"
    async with SearchSnapshots(door.address, SearchLogin(tls=context), FAST) as unnamed:
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED.*127.0.0.1"):
            await unnamed.server()


async def test_an_unknown_authority_is_not_trusted(door: Door) -> None:
    async with SearchSnapshots(door.address, SearchLogin(server_name=NAME), FAST) as trusting_the_system:
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await trusting_the_system.server()
