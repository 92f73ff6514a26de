"""TLS to a search engine: its certificate is checked, also for a name that is not its address."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recovery.adapters.search.connection import SearchLogin
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.domain.search import SearchProduct
from recovery.errors import Unreachable
from tests.certificates import self_signed
from tests.contract.search_answers import Disk
from tests.contract.search_api import Cluster, Door, a_door
from tests.contract.search_site import FAST

NAME = "search.shop.test"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of an authority of its own, for a name that no address here has."""
    return self_signed(tmp_path_factory.mktemp("tls"), NAME)


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
