"""Patroni as the one that makes PostgreSQL primary: switchover, failover and standby clusters.

Two ways of spanning regions are known:

- *one cluster* with members in several regions: the leader's lock in its DCS keeps two leaders apart. A member of the
  target becomes leader by `POST /switchover` while there is a leader, by `POST /failover` when there is none.
- *a cluster for each region*, all but one of them standby clusters: `PATCH /config` without `standby_cluster` makes one
  a primary, with it a former primary follows. Nothing but this order keeps two primaries apart: each has its own DCS.
  So it counts once each member of the old cluster says that its server takes no writes any more: the role that
  `GET /cluster` shows changes with the configuration, up to `loop_wait` and a shutdown before the server does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from recovery.adapters.patroni_rest import ClusterState, Member, PatroniAccess, PatroniCluster, Standing
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion
from recovery.errors import Contended, Refused, Unreachable
from recovery.ports.promotion import Fenced

PROMOTED = timedelta(seconds=10)  # after an order of 15 s: within an attempt; the next one goes on waiting
AT_REST = timedelta(seconds=40)  # a dead member is forgotten after Patroni's ttl, 30 s by default
LOOK_EVERY = 0.5


class PatroniPromotion:
    """``recovery.ports.promotion.PostgresPromotion`` for groups whose PostgreSQL Patroni manages.

    Args:
        clusters: the cluster as the members of one region see it, by group and region.
        promoted_within: how long an attempt waits until the target's server takes writes.
        at_rest_within: how long it waits until the source's servers take none.
    """

    def __init__(
        self,
        clusters: Callable[[str, str], Awaitable[tuple[PatroniCluster, PatroniAccess]]],
        promoted_within: timedelta = PROMOTED,
        at_rest_within: timedelta = AT_REST,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._clusters = clusters
        self._promoted_within = promoted_within.total_seconds()
        self._at_rest_within = at_rest_within.total_seconds()
        self._look_every = look_every

    async def fence(self, group: GroupSnapshot, source: str, target: str) -> Fenced | None:
        """See the port. None where the source's own cluster does not answer, or not for all of its members: the DCS of
        the target's knows nothing of it."""
        there, _ = await self._clusters(group.name, target)
        here, access = await self._clusters(group.name, source)
        state = await there.state()
        if await self._is_one(there, state, access, target):
            return Fenced(
                f"Patroni cluster {state.scope}: its DCS has one lock for all regions, and a new leader only when the "
                "old one gave it back or its ttl ended",
                hands_over=True,
            )
        if state.leader is None:
            raise Unreachable(f"Patroni cluster {state.scope} in {target} has no leader now for {source} to follow")
        follow = {
            "host": state.leader.host,
            "port": state.leader.port or 5432,
            "create_replica_methods": ["basebackup"],
        }
        try:
            before = await here.follows_another()
            await here.patch_config({"standby_cluster": follow})
            at_rest = await self._until_at_rest(here)
            if at_rest is None and not before:  # no proof, so it serves on, as far as it does
                await here.patch_config({"standby_cluster": None})
        except Unreachable:
            return None
        return Fenced(f"Patroni made the cluster in {source} a standby cluster: {at_rest}") if at_rest else None

    async def unfence(self, group: GroupSnapshot, source: str) -> None:
        """See the port."""
        here, _ = await self._clusters(group.name, source)
        if not await here.follows_another():
            return
        await here.patch_config({"standby_cluster": None})
        await self._until_writing(here, lambda leader, state: True, f"has a primary in {source} again")

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        """See the port. An order whose outcome is unknown is judged by the cluster's state."""
        cluster, access = await self._clusters(group.name, region)
        state = await cluster.state()
        if await cluster.follows_another():
            before = state.leader.position if state.leader else None
            await cluster.patch_config({"standby_cluster": None})
            leader, standing = await self._until_writing(cluster, lambda *seen: True, f"has a primary in {region}")
            note = f"cluster {state.scope} is no standby cluster any more"
            return _promotion(leader, standing, epoch, before=before, note=note)

        def is_local(leader: Member, seen: ClusterState) -> bool:
            return leader in seen.inside(access.members)

        if state.leader is not None and is_local(state.leader, state):
            # An earlier attempt's order, or Patroni's own choice, which may not have come to its end.
            leader, standing = await self._until_writing(cluster, is_local, f"has a primary in {region}")
            return _promotion(leader, standing, epoch, already=True)
        candidate = _candidate(state, state.inside(access.members), region)
        said = await self._order(cluster, state, candidate)
        words = f"has a primary in {region}" + (f" ({said})" if said else "")
        leader, standing = await self._until_writing(cluster, is_local, words)
        return _promotion(leader, standing, epoch, before=candidate.position, note=said)

    async def _is_one(self, there: PatroniCluster, state: ClusterState, source: PatroniAccess, target: str) -> bool:
        """Whether source and target are one cluster: it lists the source's members, or its operator says so.

        The DCS forgets members that are gone for longer than its ttl: a cluster that does not list them may be either.

        Raises:
            Refused: it is told to be one, and follows another cluster.
        """
        follows = await there.follows_another()
        if source.spans_regions and follows:
            raise Refused(
                f"patroni.spans_regions says that one cluster has members in all regions, and Patroni cluster "
                f"{state.scope} in {target} is a standby cluster of another: correct the configuration"
            )
        return not follows and (source.spans_regions or bool(state.inside(source.members)))

    async def _order(self, cluster: PatroniCluster, state: ClusterState, candidate: Member) -> str:
        """Patroni's words; none where its answer was lost, or it gave up watching: what counts is who leads then."""
        try:
            if state.leader is not None:
                return await cluster.switchover(state.leader.name, candidate.name)
            return await cluster.failover(candidate.name)
        except Unreachable:
            return ""
        except Refused as error:
            await self._excuse(cluster, state, error)
            raise

    @staticmethod
    async def _excuse(cluster: PatroniCluster, before: ClusterState, error: Refused) -> None:
        """An earlier attempt's order may be on its way: then Patroni refuses this one, and another look is due."""
        now = await cluster.state()
        names = [each.leader.name if each.leader else None for each in (before, now)]
        if names[0] != names[1]:
            raise Contended(f"the leader of Patroni cluster {now.scope} is changing: {error}") from None

    async def _until_at_rest(self, cluster: PatroniCluster) -> str | None:
        """Why no member of the cluster takes writes; None where one of them does not say, or does not come to rest."""
        deadline = time.monotonic() + self._at_rest_within
        while True:
            state = await cluster.state()
            standings = await asyncio.gather(*(cluster.standing(member) for member in state.members))
            if standings and all(standing is not None and standing.is_at_rest for standing in standings):
                said = zip(state.members, standings, strict=True)
                words = ", ".join(f"{member.name} is {standing}" for member, standing in said)
                return f"none of its members is a primary ({words})"
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(self._look_every)

    async def _until_writing(
        self, cluster: PatroniCluster, wanted: Callable[[Member, ClusterState], bool], words: str
    ) -> tuple[Member, Standing]:
        """The leader, once it is such a one and its own server takes writes."""
        within = self._promoted_within
        deadline = time.monotonic() + within
        while True:
            try:
                state = await cluster.state()
                leader = state.leader
                if leader is not None and wanted(leader, state):
                    standing = await cluster.standing(leader)
                    if standing is not None and standing.writes:
                        return leader, standing
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
            else:
                if time.monotonic() > deadline:
                    roles = ", ".join(f"{member.name} is {member.role}, {member.state}" for member in state.members)
                    raise Unreachable(f"Patroni cluster {state.scope}: not within {within:g} s {words}: {roles}")
            await asyncio.sleep(self._look_every)


def _candidate(state: ClusterState, local: list[Member], region: str) -> Member:
    """The member of the region that lags least; those that Patroni would refuse are left out."""
    able = [
        member
        for member in local
        if member.runs and not member.tags.get("nofailover") and member.tags.get("failover_priority", 1) != 0
    ]
    if not able:
        seen = ", ".join(f"{member.name} is {member.state}" for member in local) or "none is in the cluster"
        # What a member says of itself is as old as its last round (loop_wait): another look may find it well.
        raise Unreachable(f"no member of Patroni cluster {state.scope} in {region} can become leader now: {seen}")
    return min(able, key=lambda member: (member.role == "replica", member.lag is None, member.lag or 0, member.name))


def _promotion(leader: Member, standing: Standing, epoch: int, **fields: Any) -> Promotion:
    return Promotion(store="postgres", epoch=epoch, at=datetime.now(UTC), timeline=standing.timeline, **fields)
