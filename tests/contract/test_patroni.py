"""Patroni: promotion of a member of one cluster, and of a standby cluster, against its documented answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from recovery.adapters.patroni import PatroniPromotion
from recovery.adapters.patroni_rest import PatroniAccess, PatroniCluster, tls_context
from recovery.adapters.unguarded import Unguarded
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.errors import BadInput, Contended, Refused, Unreachable
from tests.certificates import self_signed
from tests.contract.patroni_api import PASSWORD, USER, Api, patroni
from tests.fakes.handover import FakeHandover
from tests.fakes.ownership import FakeOwnershipStore

GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="a",
    regions=[RegionPlan(name="a", task_queue="a"), RegionPlan(name="b", task_queue="b")],
)


class Site:
    """Two regions' views: of one stretched cluster, or of a cluster each."""

    def __init__(self, stack: AsyncExitStack, views: dict[str, PatroniAccess], within: float = 1.0) -> None:
        self.clusters = {
            region: PatroniCluster(access, look_seconds=0.5, order_seconds=0.5) for region, access in views.items()
        }
        for cluster in self.clusters.values():
            stack.push_async_callback(cluster.close)

        async def view(group: str, region: str) -> tuple[PatroniCluster, PatroniAccess]:
            return self.clusters[region], views[region]

        limit = timedelta(seconds=within)
        self.promotion = PatroniPromotion(view, limit, limit, look_every=0.01)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def api(stack: AsyncExitStack) -> Api:
    """Three members of one cluster, of which two are in region b."""
    api = await stack.enter_async_context(patroni("pg-a1", "pg-b1", "pg-b2"))
    api.members["pg-b1"]["lag"], api.members["pg-b2"]["lag"] = 900, 10
    return api


def access(
    *members: str, user: str | None = USER, password: str | None = PASSWORD, spans_regions: bool = False
) -> PatroniAccess:
    return PatroniAccess(members, user, password, spans_regions=spans_regions)


def stretched(stack: AsyncExitStack, api: Api, *, spans_regions: bool = False, **options: float) -> Site:
    a = access("http://127.0.0.1:9", api.addresses["pg-a1"], spans_regions=spans_regions)
    b = access(api.addresses["pg-b1"], api.addresses["pg-b2"], spans_regions=spans_regions)
    return Site(stack, {"a": a, "b": b}, **options)


async def test_the_cluster_as_it_is(stack: AsyncExitStack, api: Api) -> None:
    state = await stretched(stack, api).clusters["a"].state()  # its first member does not answer, the second does
    assert (state.scope, state.paused) == ("shop", False)
    assert state.leader is not None and (state.leader.name, state.leader.timeline) == ("pg-a1", 3)
    addresses = (api.addresses["pg-b1"], api.addresses["pg-b2"].upper() + "/")
    assert [member.name for member in state.inside(addresses)] == ["pg-b1", "pg-b2"]


async def test_the_member_of_the_target_that_lags_least_takes_over_in_order(stack: AsyncExitStack, api: Api) -> None:
    promotion = await stretched(stack, api).promotion.promote(GROUP, "b", 5)
    assert api.orders == [("switchover", {"leader": "pg-a1", "candidate": "pg-b2"})]
    assert (promotion.epoch, promotion.already, promotion.before) == (5, False, "0/3000148")
    assert (promotion.timeline, api.writing) == (4, "pg-b2"), "its own server says that it takes writes"
    assert promotion.note == 'Successfully switched over to "pg-b2"'
    again = await stretched(stack, api).promotion.promote(GROUP, "b", 5)
    assert (again.already, again.timeline, len(api.orders)) == (True, 4, 1)


async def test_without_a_leader_it_is_a_failover(stack: AsyncExitStack, api: Api) -> None:
    api.leader = None
    await stretched(stack, api).promotion.promote(GROUP, "b", 5)
    assert api.orders == [("failover", {"candidate": "pg-b2"})]


@pytest.mark.parametrize("fault", ["lose the answer", "status unknown"])
async def test_an_order_whose_outcome_is_unknown_is_judged_by_who_leads(
    stack: AsyncExitStack, api: Api, fault: str
) -> None:
    api.faults = [fault]
    promotion = await stretched(stack, api).promotion.promote(GROUP, "b", 5)
    assert (api.leader, promotion.already) == ("pg-b2", False)


async def test_what_patroni_forbids_is_said_in_its_words(stack: AsyncExitStack, api: Api) -> None:
    api.faults = ["impossible"]
    with pytest.raises(Refused, match=r"\(412\): switchover is not possible: no good candidates have been found"):
        await stretched(stack, api).promotion.promote(GROUP, "b", 5)


async def test_an_order_that_meets_an_earlier_one_is_worth_another_attempt(stack: AsyncExitStack, api: Api) -> None:
    api.faults = ["impossible"]
    api.begin_moving_to("pg-b1")
    site = stretched(stack, api)
    with pytest.raises(Contended, match="is changing"):
        await site.promotion.promote(GROUP, "b", 5)
    assert (await site.promotion.promote(GROUP, "b", 5)).already


async def test_members_that_must_not_or_cannot_lead_are_left_out(stack: AsyncExitStack, api: Api) -> None:
    api.members["pg-b2"]["tags"] = {"nofailover": True}
    await stretched(stack, api).promotion.promote(GROUP, "b", 5)
    assert api.leader == "pg-b1"
    api.leader = api.writing = "pg-a1"
    api.members["pg-b1"]["state"] = "stopped"
    with pytest.raises(Unreachable, match="in b can become leader now: pg-b1 is stopped, pg-b2 is streaming"):
        await stretched(stack, api).promotion.promote(GROUP, "b", 5)


async def test_a_leader_that_does_not_come_is_unreachable_with_all_roles(stack: AsyncExitStack, api: Api) -> None:
    api.looks = 10_000
    site = stretched(stack, api, within=0.2)
    with pytest.raises(Unreachable, match=r"not within 0\.2 s has a primary in b .*pg-a1 is leader, running"):
        await site.promotion.promote(GROUP, "b", 5)


@pytest.mark.parametrize("password", ["wrong", None])
async def test_a_wrong_password_is_refused_and_not_shown(stack: AsyncExitStack, api: Api, password: str | None) -> None:
    view = access(api.addresses["pg-b1"], user=USER if password else None, password=password)
    with pytest.raises(Refused, match=r"\(401\).*Check patroni\.user") as failure:
        await Site(stack, {"b": view}).promotion.promote(GROUP, "b", 5)
    assert "wrong" not in str(failure.value) + repr(view)


async def test_no_member_answers(stack: AsyncExitStack) -> None:
    with pytest.raises(Unreachable, match=r"no member of the Patroni cluster answered: http://127\.0\.0\.1:9"):
        await Site(stack, {"b": access("http://127.0.0.1:9")}).clusters["b"].state()


async def test_one_cluster_is_fenced_by_its_own_lock(stack: AsyncExitStack, api: Api) -> None:
    found = await stretched(stack, api).promotion.fence(GROUP, "a", "b")
    assert found is not None and found.hands_over and "one lock for all regions" in found.why
    assert api.orders == []


# A cluster for each region


@pytest.fixture
async def pair(stack: AsyncExitStack) -> tuple[Api, Api]:
    a = await stack.enter_async_context(patroni("pg-a1", "pg-a2"))
    b = await stack.enter_async_context(patroni("pg-b1"))
    b.members["pg-b1"] |= {"host": "10.0.0.2", "port": 5433}
    b.follow("10.0.0.1", 5432)
    return a, b


def apart(stack: AsyncExitStack, pair: tuple[Api, Api], **options: float) -> Site:
    a, b = pair
    return Site(stack, {"a": access(a.address), "b": access(b.address)}, **options)


async def test_a_standby_cluster_is_promoted_by_its_configuration(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    site = apart(stack, pair)
    promotion = await site.promotion.promote(GROUP, "b", 5)
    assert (pair[1].orders, pair[1].config) == ([("patch", {"standby_cluster": None})], {"ttl": 30})
    assert (promotion.already, pair[1].writing) == (False, "pg-b1"), "its server takes writes by now"
    assert (await site.promotion.promote(GROUP, "b", 5)).already


async def test_the_old_cluster_becomes_a_standby_of_the_new_and_back(
    stack: AsyncExitStack, pair: tuple[Api, Api]
) -> None:
    site = apart(stack, pair)
    found = await site.promotion.fence(GROUP, "a", "b")
    assert found is not None and not found.hands_over
    assert "none of its members is a primary (pg-a1 is replica, running, pg-a2 is" in found.why
    assert _writing(pair[0]) is None, "the configuration alone is no proof"
    assert pair[0].config["standby_cluster"] == {
        "host": "10.0.0.2",
        "port": 5433,
        "create_replica_methods": ["basebackup"],
    }
    await site.promotion.unfence(GROUP, "a")
    assert pair[0].config == {"ttl": 30}
    assert _writing(pair[0]) == "pg-a1"
    await site.promotion.unfence(GROUP, "a")
    assert len(pair[0].orders) == 2


@pytest.mark.parametrize("who", ["pg-a1", "pg-a2"])
async def test_a_member_that_does_not_say_that_it_is_at_rest_is_no_proof(
    stack: AsyncExitStack, pair: tuple[Api, Api], who: str
) -> None:
    """Its Patroni may be frozen, and its server go on as the primary that it was."""
    pair[0].silent = {who}
    assert await apart(stack, pair).promotion.fence(GROUP, "a", "b") is None


async def test_a_server_that_stays_a_primary_is_not_fenced(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    pair[0].looks = 10_000
    assert await apart(stack, pair, within=0.2).promotion.fence(GROUP, "a", "b") is None
    assert pair[0].config == {"ttl": 30}, "it goes on serving"


async def test_a_standby_cluster_without_a_leader_is_no_proof_of_one_cluster(
    stack: AsyncExitStack, pair: tuple[Api, Api]
) -> None:
    """As for a moment after its start: the role of its leader, which says what it is, is not there."""
    pair[1].leader = None
    with pytest.raises(Unreachable, match="has no leader now for a to follow"):
        await apart(stack, pair).promotion.fence(GROUP, "a", "b")
    assert pair[0].orders == []


async def test_a_lost_regions_members_are_forgotten_and_its_operator_says_that_it_is_one_cluster(
    stack: AsyncExitStack, api: Api
) -> None:
    api.forgotten, api.leader = {"pg-a1"}, "pg-b1"
    views = {"a": access("http://127.0.0.1:9"), "b": access(api.addresses["pg-b1"])}
    assert await Site(stack, views).promotion.fence(GROUP, "a", "b") is None, "it may be a cluster of its own"
    found = await stretched(stack, api, spans_regions=True).promotion.fence(GROUP, "a", "b")
    assert found is not None and found.hands_over and "one lock for all regions" in found.why


async def test_a_standby_cluster_that_is_said_to_be_the_only_one_is_refused(
    stack: AsyncExitStack, pair: tuple[Api, Api]
) -> None:
    views = {"a": access(pair[0].address, spans_regions=True), "b": access(pair[1].address, spans_regions=True)}
    with pytest.raises(Refused, match=r"spans_regions.*is a standby cluster of another"):
        await Site(stack, views).promotion.fence(GROUP, "a", "b")


async def test_an_old_cluster_that_does_not_answer_is_not_fenced(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    views = {"a": access("http://127.0.0.1:9"), "b": access(pair[1].address)}
    assert await Site(stack, views).promotion.fence(GROUP, "a", "b") is None


# TLS


async def test_a_certificate_is_checked(stack: AsyncExitStack, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    api = await stack.enter_async_context(patroni("pg-a1", certificate=certificate, key=key))
    trusting = PatroniAccess((api.address,), USER, PASSWORD, tls_context(str(certificate)))
    assert (await Site(stack, {"a": trusting}).clusters["a"].state()).scope == "shop"
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await Site(stack, {"a": access(api.address)}).clusters["a"].state()


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"TLS files for Patroni cannot be used .*nothing\.pem"):
        tls_context(str(tmp_path / "nothing.pem"))


# As the plans of groups without guards use it


def unguarded(site: Site, record: OwnershipRecord | None = None) -> tuple[Unguarded, FakeOwnershipStore]:
    ownership = FakeOwnershipStore()
    held = record or OwnershipRecord(
        group="shop", epoch=7, region="a", phase=Phase.RUNNING, run="run-1", changed_at=dt.datetime.now(dt.UTC)
    )
    ownership.records["shop"] = (held, "1")
    group = GROUP.model_copy(update={"managed_by": "patroni"})
    return Unguarded(ownership, FakeHandover(), lambda name: group, lambda found: site.promotion), ownership


def order(**changed: object) -> GuardOrder:
    return GuardOrder(group="shop", run="run-1", epoch=7, source="a", target="b", effect_id="0123456789ab").model_copy(
        update=changed
    )


async def test_patronis_word_is_the_proof_and_nobody_has_to_vouch(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    guards, ownership = unguarded(apart(stack, pair))
    proof = await guards.fence(order())
    assert (proof.how, proof.by) == ("managed", "patroni")
    assert "made the cluster in a a standby cluster" in proof.reason
    promotion = await guards.promote(order(store="postgres"))
    assert (promotion.epoch, pair[1].config) == (8, {"ttl": 30})
    record, _ = ownership.records["shop"]
    assert (record.region, record.epoch, record.fence) == ("b", 8, proof)
    with pytest.raises(Refused, match="taken over by b"):
        await guards.unfence(order())
    assert "standby_cluster" in pair[0].config, "the old cluster would be a second primary"


async def test_the_undo_lets_the_old_cluster_serve_again(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    guards, _ = unguarded(apart(stack, pair))
    await guards.fence(order())
    assert "standby_cluster" in pair[0].config
    record = await guards.unfence(order())
    assert (pair[0].config, record.epoch, record.fence) == ({"ttl": 30}, 8, None)


async def test_an_old_cluster_that_never_answered_holds_up_no_undo(
    stack: AsyncExitStack, pair: tuple[Api, Api]
) -> None:
    """Nothing of it was changed. One that was fenced is asked until it answers."""
    silent = Site(stack, {"a": access("http://127.0.0.1:9"), "b": access(pair[1].address)})
    guards, ownership = unguarded(silent)
    with pytest.raises(Refused, match="a person has to confirm"):
        await guards.fence(order())
    assert (await guards.unfence(order())).epoch == 7
    held, version = ownership.records["shop"]
    ownership.records["shop"] = (held.model_copy(update={"epoch": 8}), version)
    with pytest.raises(Unreachable):
        await guards.unfence(order())


async def test_a_late_order_asks_nothing_of_patroni(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    guards, _ = unguarded(apart(stack, pair))
    for late in (order(run="another"), order(epoch=6)):
        with pytest.raises(Refused):
            await guards.fence(late)
    assert pair[0].orders == []


async def test_where_patroni_cannot_make_sure_a_person_has_to(stack: AsyncExitStack, pair: tuple[Api, Api]) -> None:
    views = {"a": access("http://127.0.0.1:9"), "b": access(pair[1].address)}
    guards, _ = unguarded(Site(stack, views))
    with pytest.raises(Refused, match="a person has to confirm that a is off"):
        await guards.fence(order())
    assert (await guards.fence(order(person="ana"))).how == "person"


def _writing(api: Api) -> str | None:
    """The member whose server takes writes."""
    return api.writing
