"""Whatever somebody types as the input of a run, it ends with a sentence that says what is wrong."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from recovery.domain.report import RunReport
from tests.workflows.conftest import Rig
from workflows.base import LARGEST_REQUEST


def raw(data: bytes, encoding: bytes = b"json/plain") -> RawValue:
    return RawValue(Payload(metadata={"encoding": encoding}, data=data))


BAD = [
    pytest.param((), "names no group", id="no input"),
    pytest.param(({},), "names no group", id="empty"),
    pytest.param(({"group": "shop", "target": {"latest": True, "tiem": 1}},), "target.tiem: ", id="misspelt within"),
    pytest.param(({"group": ""},), "names no group", id="empty group"),
    pytest.param(({"grup": "shop"},), "unknown fields: grup", id="misspelt"),
    pytest.param(({"group": "nope"},), "known is shop", id="unknown group"),
    pytest.param(({"group": "shop", "region": "mars"},), "region-a, region-b", id="unknown region"),
    pytest.param(({"group": "shop", "kind": "sideways"},), "kind: ", id="unknown kind"),
    pytest.param(({"group": 5},), "group: ", id="group is a number"),
    pytest.param(("shop",), "is no request", id="a word"),
    pytest.param((["shop"],), "is no request", id="a list"),
    pytest.param((7,), "is no request", id="a number"),
    pytest.param((raw(b"null"),), "is no request", id="null"),
    pytest.param((raw(b"", b"binary/null"),), "is no request", id="nothing"),
    pytest.param((raw(b"{group: shop}"),), "is no request", id="not JSON"),
    pytest.param((raw(b"\x00\xff", b"binary/plain"),), "is no request", id="bytes"),
    pytest.param((raw(b"{}", b"json/protobuf"),), "is no request", id="protobuf"),
    pytest.param((raw(b"{}", b"klingon"),), "is no request", id="unknown encoding"),
    pytest.param(({"group": "shop", "reason": "x" * (LARGEST_REQUEST + 1)},), "bytes, and 65,536", id="too large"),
    pytest.param(({"group": "shop", "unreadable": "x"},), "x", id="pretending"),
]


@pytest.mark.parametrize(("given", "sentence"), BAD)
async def test_ends_with_a_sentence(rig: Rig, given: tuple[object, ...], sentence: str) -> None:
    handle = await rig.start_with(*given)
    async with asyncio.timeout(20):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert sentence in caught.value.cause.message
    assert caught.value.cause.message.endswith("nothing had been changed")
    assert rig.world.log == []


async def test_a_group_alone_is_enough(rig: Rig) -> None:
    report: RunReport = await (await rig.start_with({"group": "shop"})).result()
    assert report.state == "completed"
