"""What a promoted mirror, a returned source and a copied consumer are made of."""

from __future__ import annotations

from typing import Any

import pytest

from recovery.adapters.nats.consumers import Position, position_of, starting_config
from recovery.adapters.nats.following import seconds_behind
from recovery.adapters.nats.streams import HISTORY, as_mirror, fork, history, mirrors_domain
from recovery.adapters.nats.words import followed
from recovery.adapters.nats.words import position_of as position_of_streams
from recovery.domain.positions import position_number
from recovery.errors import Refused


def config(entries: str = "", **settings: Any) -> dict[str, Any]:
    return {"name": "events", "metadata": {HISTORY: entries} if entries else {}} | settings


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("1@0", "1@0,2@50", 50),  # an old source, and the mirror that was promoted
        ("", "2@50", 50),  # the same, from before there were guards
        ("1@0,2@50,3@80", "1@0,2@50,3@80,4@200", 200),
        ("1@0,3@60", "1@0,2@50", 50),  # each was promoted without the other: what came after the first is its own
        ("1@0,2@50", "1@0,3@60", 50),
        ("1@0,2@50", "1@0", 50),  # the owner is the older one
        ("1@0", "1@0", None),  # nothing happened since: the messages have to tell
        ("", "", None),
        ("9@0", "1@0,2@50", None),  # strangers
    ],
)
def test_two_streams_part_where_the_first_of_them_was_promoted(ours: str, theirs: str, expected: int | None) -> None:
    assert fork(config(ours), config(theirs)) == expected


def test_a_history_that_somebody_wrote_by_hand_is_read_as_far_as_it_makes_sense() -> None:
    assert history(config("1@0, x@3,2@ ,2@50")) == [(1, 0), (2, 50)]


def test_a_mirror_has_its_sources_limits_and_nothing_that_a_mirror_must_not_have() -> None:
    source = config(
        subjects=["events.>"],
        retention="interest",
        max_age=5,
        storage="file",
        num_replicas=3,
        duplicate_window=120,
        sealed=False,
        metadata={"_nats.ver": "2.15.1", "owner": "shop"},
    )
    mirror = as_mirror(source, "east", 1)
    assert mirror == {
        "name": "events",
        "retention": "limits",
        "max_age": 5,
        "storage": "file",
        "num_replicas": 1,
        "metadata": {"owner": "shop"},
        "mirror": {"name": "events", "external": {"api": "$JS.east.API"}},
    }
    assert mirrors_domain(mirror) == "east"
    assert mirrors_domain(source) is None


def test_a_work_queue_is_refused_as_a_mirror() -> None:
    with pytest.raises(Refused, match="events is a work queue"):
        as_mirror(config(retention="workqueue"), "east", 1)


def consumer(**settings: Any) -> dict[str, Any]:
    return {
        "name": "worker",
        "config": {"durable_name": "worker", "ack_policy": "explicit", "deliver_policy": "all"} | settings,
        "delivered": {"stream_seq": 50},
        "ack_floor": {"stream_seq": 41},
    }


def test_a_consumer_goes_on_after_what_it_had_acknowledged() -> None:
    found = position_of(consumer(opt_start_time="2026-01-01T00:00:00Z", metadata={"_nats.ver": "2", "team": "a"}))
    assert found is not None
    made = starting_config(found, last=100)
    assert (made["deliver_policy"], made["opt_start_seq"], made["metadata"]) == (
        "by_start_sequence",
        42,
        {"team": "a"},
    )
    assert "opt_start_time" not in made


def test_one_that_acknowledges_nothing_goes_on_after_what_it_was_given() -> None:
    found = position_of(consumer(ack_policy="none"))
    assert found is not None
    assert starting_config(found, last=100)["opt_start_seq"] == 51


def test_a_position_beyond_the_stream_skips_nothing_that_comes_next() -> None:
    assert starting_config(Position("worker", {}, handled=120, delivered=120), last=100)["opt_start_seq"] == 101


@pytest.mark.parametrize(
    "settings",
    [{"sourcing": True}, {"direct": True}, {"durable_name": None, "name": "brief"}, {"durable_name": None}],
)
def test_consumers_of_mirrors_and_those_that_end_with_their_client_are_not_copied(settings: dict[str, Any]) -> None:
    assert position_of(consumer(**settings)) is None


def test_a_position_is_one_number_to_plans_and_leaves_work_queues_out() -> None:
    infos = {
        "audit": {"config": {"retention": "limits"}, "state": {"last_seq": 3}},
        "commands": {"config": {"retention": "workqueue"}, "state": {"last_seq": 70}},
        "events": {"config": {"retention": "interest"}, "state": {"last_seq": 50}},
        "missing": None,
    }
    assert position_of_streams(infos) == "audit=3, events=50"
    assert position_number(position_of_streams(infos)) == 53 == sum(followed(infos).values())


def test_a_lag_is_the_time_between_the_last_messages() -> None:
    def info(last: int, at: str) -> dict[str, Any]:
        return {"state": {"last_seq": last, "last_ts": at}}

    owner = info(10, "2026-11-22T08:57:41.303628978Z")
    assert seconds_behind(owner, info(8, "2026-11-22T08:57:40Z")) == pytest.approx(1.303628)
    assert seconds_behind(owner, info(10, "2026-11-22T08:57:41.3Z")) == 0.0
