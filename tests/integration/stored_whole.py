"""That the stores of an installation hold a recovery point whole, and nothing beside it."""

from __future__ import annotations

from recovery.backup.reader import verify_objects
from tests.integration.installation import Site


async def assert_whole(site: Site, group: str, point_id: str) -> None:
    """At every location, as its manifest has it."""
    point = await (await site.catalogue(group)).point(group, point_id)
    assert sorted(point.locations) == ["store-region-a", "store-region-b"]
    for store in await site.stores():
        assert all(check.passed for check in await verify_objects(store, point.manifest))
    await nothing_is_left(site, group)


async def nothing_is_left(site: Site, group: str) -> None:
    """No object without a manifest, at any location, and no folder on this machine."""
    assert await (await site.catalogue(group)).orphans(group) == []
    await site.no_residue()
