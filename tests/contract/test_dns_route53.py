"""What is particular about Route 53: weighted sets, aliases, INSYNC, throttling, name servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from recovery.adapters.route53 import Route53Zone
from recovery.domain.plan import AliasTarget, DnsBefore
from recovery.errors import BadInput, Contended, NotFound, Refused, Unreachable
from tests.contract.dns_servers import ZONE
from tests.contract.moto_server import moto
from tests.contract.route53_front import Front, route53
from tests.contract.route53_zones import ACCESS_KEY, SECRET_KEY, access, client, made_zone, put

SIMPLE = DnsBefore(name="api.shop.test", type="A", ttl=60, values=["192.0.2.1"], zone=ZONE)
MOVED = SIMPLE.model_copy(update={"values": ["198.51.100.7"]})
PRIMARY = SIMPLE.model_copy(update={"name": "w.shop.test", "set_identifier": "Primary", "weight": 100})
SECOND = PRIMARY.model_copy(update={"set_identifier": "Second", "weight": 0, "values": ["198.51.100.7"]})


@pytest.fixture(scope="module")
async def amazon() -> AsyncIterator[str]:
    async with moto() as address:
        yield address


@pytest.fixture
async def front(amazon: str) -> AsyncIterator[Front]:
    async with route53(amazon) as front:
        yield front


@pytest.fixture
async def zone_id(front: Front) -> str:
    return await made_zone(front, ZONE, [])


@pytest.fixture
async def zone(front: Front, zone_id: str) -> AsyncIterator[Route53Zone]:
    zone = client(front, zone_id)
    yield zone
    await zone.close()


async def now(zone: Route53Zone, record: DnsBefore) -> DnsBefore:
    return await zone.read(record.name, record.type, record.zone, record.set_identifier)


def alias(to: str, *, follow: bool = True) -> DnsBefore:
    target = AliasTarget(hosted_zone="Z32O12XQLNTSW2", name=to, evaluate_target_health=follow)
    return SIMPLE.model_copy(update={"ttl": 0, "values": [], "alias": target})


# Batches


async def test_old_and_new_are_one_exact_batch_without_upsert(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    await zone.replace([(SIMPLE, MOVED)])
    ((first, old), (second, new)) = front.batches[-1]
    assert (first, old.values, second, new.values) == ("DELETE", ("192.0.2.1",), "CREATE", ("198.51.100.7",))


async def test_an_edited_time_to_live_is_an_edit(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE.model_copy(update={"ttl": 300}))
    with pytest.raises(Contended, match=r"Somebody changed api\.shop\.test A .* nothing was changed"):
        await zone.replace([(SIMPLE, MOVED)])


async def test_an_undo_needs_what_was_written(zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    await zone.replace([(SIMPLE, MOVED)])
    third = SIMPLE.model_copy(update={"values": ["203.0.113.1"]})
    await zone.replace([(MOVED, third)])  # somebody else
    with pytest.raises(Contended):
        await zone.replace([(MOVED, SIMPLE)])
    assert (await now(zone, SIMPLE)).values == third.values


async def test_a_lost_answer_is_no_loss(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    front.faults = ["lose the answer"]
    await zone.replace([(SIMPLE, MOVED)])
    assert len(front.batches) == 2
    assert await now(zone, SIMPLE) == MOVED


async def test_a_failed_change_is_worth_another_attempt_and_changed_nothing(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    front.faults = ["fail"]
    with pytest.raises(Unreachable, match="could not change 2 records of shop.test"):
        await zone.replace([(SIMPLE, MOVED)])
    assert await now(zone, SIMPLE) == SIMPLE


async def test_what_amazon_takes_for_nonsense_is_said_in_its_words(zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    nothing = DnsBefore(name="api.shop.test", type="CNAME", ttl=0, values=[], zone=ZONE)
    cname = nothing.model_copy(update={"ttl": 60, "values": ["x.shop.test."]})
    with pytest.raises(BadInput, match="conflicts with other records"):
        await zone.replace([(nothing, cname)])


# Throttling and permissions


@pytest.mark.parametrize("fault", ["throttle", "prior request"])
async def test_throttled_calls_are_made_again(front: Front, zone: Route53Zone, fault: str) -> None:
    await put(zone, SIMPLE)
    front.faults = [fault, fault]
    front.calls.clear()
    await zone.replace([(SIMPLE, MOVED)])
    assert front.calls == ["change"] * 3
    front.faults = [fault, fault]
    assert await now(zone, SIMPLE) == MOVED


async def test_throttling_ends_with_our_patience(front: Front, zone_id: str) -> None:
    hurried = client(front, zone_id, patience=timedelta(seconds=0.5))
    front.faults = ["throttle"] * 50
    with pytest.raises(Unreachable, match=r"throttling us \(Throttling\) for 0\.5 s"):
        await hurried.read("api.shop.test", "A", ZONE)
    assert len(front.calls) < 6
    await hurried.close()


async def test_a_missing_permission_is_not_tried_again(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    front.calls.clear()
    front.faults = ["deny"]
    with pytest.raises(Refused, match="not authorized to perform: route53:ChangeResourceRecordSets") as failure:
        await zone.replace([(SIMPLE, MOVED)])
    assert front.calls == ["change"]
    assert SECRET_KEY not in str(failure.value) + repr(access(front))
    assert ACCESS_KEY not in repr(access(front))


async def test_an_unknown_zone_and_a_wrong_one(front: Front, zone_id: str) -> None:
    with pytest.raises(NotFound, match="no hosted zone Z1NOSUCHZONE"):
        await client(front, "Z1NOSUCHZONE").read("api.shop.test", "A", ZONE)
    with pytest.raises(BadInput, match=f"{zone_id} is that of shop.test, not of other.test"):
        await client(front, zone_id, zone="other.test").read("db.other.test", "A", "other.test")


async def test_nobody_listens(zone_id: str) -> None:
    silent = Front(moto="", address="http://127.0.0.1:9", dns_port=9)
    with pytest.raises(Unreachable, match="route53 did not answer"):
        await client(silent, zone_id, patience=timedelta()).read("api.shop.test", "A", ZONE)


# Weighted sets


async def test_one_member_moves_and_the_others_stay(zone: Route53Zone) -> None:
    await put(zone, PRIMARY, SECOND)
    moved = PRIMARY.model_copy(update={"values": ["203.0.113.9"]})
    await zone.replace([(PRIMARY, moved)])
    assert await now(zone, PRIMARY) == moved
    assert await now(zone, SECOND) == SECOND


async def test_weights_move_in_one_batch_and_back(front: Front, zone: Route53Zone) -> None:
    await put(zone, PRIMARY, SECOND)
    off, on = PRIMARY.model_copy(update={"weight": 0}), SECOND.model_copy(update={"weight": 100})
    await zone.replace([(PRIMARY, off), (SECOND, on)])
    assert len(front.batches[-1]) == 4
    assert [(await now(zone, PRIMARY)).weight, (await now(zone, SECOND)).weight] == [0, 100]
    assert await zone.settle([off, on]) == []
    await zone.replace([(off, PRIMARY), (on, SECOND)])
    assert (await now(zone, PRIMARY), await now(zone, SECOND)) == (PRIMARY, SECOND)


async def test_an_edited_weight_is_an_edit(zone: Route53Zone) -> None:
    await put(zone, PRIMARY.model_copy(update={"weight": 50}))
    with pytest.raises(Contended):
        await zone.replace([(PRIMARY, PRIMARY.model_copy(update={"values": ["203.0.113.9"]}))])


async def test_another_member_that_still_draws_clients_is_said(zone: Route53Zone) -> None:
    await put(zone, PRIMARY, SECOND.model_copy(update={"weight": 5, "values": ["203.0.113.66"]}))
    notes = await zone.settle([PRIMARY])
    assert notes == ["w.shop.test (Second) A has weight 5 and answers clients, too: 203.0.113.66 (weight 5)"]


async def test_simple_and_weighted_are_not_mixed_up(zone: Route53Zone) -> None:
    await put(zone, PRIMARY, SIMPLE)
    with pytest.raises(BadInput, match=r"w\.shop\.test A is a set of several records \(Primary\)"):
        await zone.read("w.shop.test", "A", ZONE)
    with pytest.raises(BadInput, match=r"is a simple record, .* set_identifier Primary"):
        await zone.read("api.shop.test", "A", ZONE, "Primary")


# Aliases


async def test_an_alias_moves_with_its_zone_and_its_health(front: Front, zone: Route53Zone) -> None:
    front.addresses = {"localhost": ["127.0.0.1"]}
    await put(zone, alias("old.elb.test", follow=False))
    new = alias("localhost")
    await zone.replace([(alias("old.elb.test", follow=False), new)])
    assert await now(zone, SIMPLE) == new
    assert front.batches[-1][1][1].alias == ("Z32O12XQLNTSW2", "localhost", "true")
    assert await zone.settle([new]) == []


async def test_an_alias_whose_health_flag_was_edited_is_an_edit(zone: Route53Zone) -> None:
    await put(zone, alias("old.elb.test", follow=False))
    with pytest.raises(Contended):
        await zone.replace([(alias("old.elb.test"), alias("localhost"))])


async def test_from_values_to_an_alias_and_back(zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    await zone.replace([(SIMPLE, alias("localhost"))])
    await zone.replace([(alias("localhost"), SIMPLE)])
    assert await now(zone, SIMPLE) == SIMPLE


async def test_an_alias_that_answers_elsewhere_is_not_settled(front: Front, zone: Route53Zone) -> None:
    front.addresses = {"localhost": ["192.0.2.99"]}
    await put(zone, alias("localhost"))
    with pytest.raises(Unreachable, match=r"answers 192\.0\.2\.99 for api\.shop\.test A"):
        await zone.settle([alias("localhost")])


async def test_an_alias_whose_target_nobody_knows_is_left_and_said(zone: Route53Zone) -> None:
    await put(zone, alias("nowhere.invalid"))
    assert [note for note in await zone.settle([alias("nowhere.invalid")]) if "are not known here" in note]


# INSYNC and the name servers


async def test_a_change_is_waited_for_until_it_is_in_sync(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    await zone.settle([SIMPLE])
    front.polls = 3
    await zone.replace([(SIMPLE, MOVED)])
    front.calls.clear()
    assert await zone.settle([MOVED]) == []
    assert front.calls.count("get_change") == 4


async def test_a_change_that_stays_pending_is_said(front: Front, zone_id: str) -> None:
    zone = client(front, zone_id, settle_within=timedelta(seconds=0.3))
    front.polls = 1000
    await zone.replace([(SIMPLE.model_copy(update={"values": []}), SIMPLE)])
    with pytest.raises(Unreachable, match=r"is accepted, and still PENDING after 0\.3 s"):
        await zone.settle([SIMPLE])
    for waiting in front._pending.values():
        waiting[0] = 0
    assert await zone.settle([SIMPLE]) == []
    await zone.close()


async def test_a_name_server_that_answers_wrongly_is_not_believed(front: Front, zone: Route53Zone) -> None:
    await put(zone, SIMPLE)
    front.stale[("api.shop.test", "A")] = ["192.0.2.77"]
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 answers 192\.0\.2\.77 for api\.shop\.test A"):
        await zone.settle([SIMPLE])
    front.stale.clear()
    assert await zone.settle([SIMPLE]) == []


async def test_a_removed_record_that_is_still_answered_is_not_settled(front: Front, zone: Route53Zone) -> None:
    front.stale[("api.shop.test", "A")] = ["192.0.2.77"]
    with pytest.raises(Unreachable, match="answers"):
        await zone.settle([SIMPLE.model_copy(update={"values": []})])


async def test_a_name_server_that_cannot_be_reached_is_a_note(front: Front, zone_id: str) -> None:
    zone = client(front, zone_id, name_servers=[("127.0.0.1", 9), ("127.0.0.1", front.dns_port)])
    await put(zone, SIMPLE)
    (note,) = await zone.settle([SIMPLE])
    assert note.startswith("name server 127.0.0.1") and note.endswith("not looked at")
    await zone.close()


async def test_the_name_servers_are_left_alone_where_configured(front: Front, zone_id: str) -> None:
    zone = client(front, zone_id, check_answers=False)
    await put(zone, SIMPLE)
    front.stale[("api.shop.test", "A")] = ["192.0.2.77"]
    assert await zone.settle([SIMPLE]) == []
    await zone.close()
