"""The guard's address and its client: over real sockets, with a guard that answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recovery import errors
from recovery.adapters.guard_client import GuardClient
from recovery.domain.guarding import GuardOrder, GuardStatus, Promotion, Stopped
from recovery.domain.ownership import FenceProof
from recovery.errors import BadInput, NotFound, Refused, Unreachable
from recovery.guard import server as serving
from recovery.guard.server import Address, GuardServer
from tests.certificates import self_signed
from tests.fakes.guard import NOW

TOKEN = "a token of sixteen characters or more"
ORDER = GuardOrder(
    group="shop", run="run-1", epoch=1, source="a", target="b", effect_id="e", store="postgres", deadline=20.0
)
PROOF = FenceProof(epoch=1, region="a", how="lease-broken", by="b/1", at=NOW, run="run-1")


class FakeGuard:
    """``answers``: what a method returns, or raises. ``gate`` holds fences up until it is set."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "status": GuardStatus(region="b", instance="b/1", ttl=5, holds_lease=True),
            "fence": PROOF,
            "promote": Promotion(store="postgres", epoch=2, at=NOW),
            "stop": Stopped(region="a", member="standby_a", position="0/300"),
        }
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def _answer(self, name: str) -> Any:
        self.asked.append(name)
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]

    async def status(self, group: str | None = None) -> Any:
        return await self._answer("status")

    async def fence(self, order: GuardOrder) -> Any:
        try:
            found = await self._answer("fence")
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return found

    async def unfence(self, order: GuardOrder) -> Any:
        return await self._answer("unfence")

    async def promote(self, order: GuardOrder) -> Any:
        return await self._answer("promote")

    async def follow(self, order: GuardOrder) -> Any:
        return await self._answer("follow")

    async def stop_receiving(self, order: GuardOrder) -> Any:
        return await self._answer("stop")

    def promise(self, name: str, epoch: int, holder: str, ttl: float) -> str | None:
        self.asked.append(f"promise {name} {epoch} {holder} {ttl}")
        return None if epoch == 1 else "it is being taken over"

    async def nudge(self, name: str) -> None:
        self.asked.append(f"nudge {name}")


@contextlib.asynccontextmanager
async def answering(guard: FakeGuard, **tls: str) -> AsyncIterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    ready = asyncio.Event()
    server = GuardServer(guard, TOKEN)  # type: ignore[arg-type]
    address = Address.of(url, tls.get("certificate"), tls.get("key"))
    task = asyncio.create_task(server.serve(address, ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    try:
        if task.done():
            task.result()
        yield url
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_orders_and_questions_reach_the_guard() -> None:
    guard = FakeGuard()
    async with answering(guard) as url, GuardClient({"a": url, "b": url}, TOKEN) as client:
        assert (await client.status("b")).holds_lease
        assert await client.fence(ORDER) == PROOF
        assert (await client.promote(ORDER)).epoch == 2
        assert await client.promise("b", "shop", 1, "a/1", 5.0)
        assert not await client.promise("b", "shop", 2, "a/1", 5.0)
        assert (await client.stop_receiving("a", ORDER)).member == "standby_a"
        await client.nudge("b", "shop")
    assert guard.asked[-1] == "nudge shop"


async def test_a_long_order_is_asked_for_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.4)
    guard = FakeGuard()
    guard.gate.clear()
    async with answering(guard) as url, GuardClient({"b": url}, TOKEN) as client:
        asking = asyncio.create_task(client.fence(ORDER))
        second = asyncio.create_task(client.fence(ORDER))
        await asyncio.sleep(0.6)  # in the middle of both clients' second look
        assert not asking.done()
        guard.gate.set()
        assert await asking == await second == PROOF
        assert guard.asked.count("fence") == 1  # both attached to one


async def test_a_request_taken_back_ends_the_fence_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.05)
    guard = FakeGuard()
    guard.gate.clear()
    guard.answers["unfence"] = Refused("it was promoted")
    async with answering(guard) as url, GuardClient({"b": url}, TOKEN) as client:
        asking = asyncio.create_task(client.fence(ORDER))
        await asyncio.sleep(0.1)
        with pytest.raises(Refused, match="it was promoted"):
            await client.unfence(ORDER)
        assert guard.cancelled == 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_an_order_is_given_up_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.05)
    guard = FakeGuard()
    guard.gate.clear()
    async with answering(guard) as url, GuardClient({"b": url}, TOKEN) as client:
        with pytest.raises(Unreachable, match="fence"):
            await client.fence(ORDER.model_copy(update={"deadline": 0.3}))


@pytest.mark.parametrize("kind", ["Unreachable", "Contended", "Refused", "NotFound", "BadInput", "Corrupt"])
async def test_errors_come_back_as_they_were(kind: str) -> None:
    guard = FakeGuard()
    guard.answers["promote"] = getattr(errors, kind)("why it is so")
    async with answering(guard) as url, GuardClient({"b": url}, TOKEN) as client:
        with pytest.raises(getattr(errors, kind), match="why it is so"):
            await client.promote(ORDER)


async def test_strangers_and_nonsense_are_refused() -> None:
    guard = FakeGuard()
    async with answering(guard) as url:
        async with GuardClient({"b": url}, "another token, of a stranger") as stranger:
            with pytest.raises(Refused, match="token"):
                await stranger.promote(ORDER)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
            for body in (b"", b"{}", b"[]", b"x" * 100_000, ORDER.model_dump_json().replace("1", '"x"').encode()):
                answer = await client.post(f"{url}/promote", content=body)
                assert (answer.status_code, answer.json()["kind"]) == (400, "BadInput")
            assert (await client.get(f"{url}/elsewhere")).status_code == 404
    assert guard.asked == []


async def test_who_does_not_answer_is_unreachable_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with GuardClient({"b": f"http://127.0.0.1:{nobody.getsockname()[1]}"}, TOKEN) as client:
            began = asyncio.get_running_loop().time()
            with pytest.raises(Unreachable, match="takes no connection"):
                await client.fence(ORDER)
            with pytest.raises(NotFound, match=r"regions\.c\.guard"):
                await client.status("c")
            assert asyncio.get_running_loop().time() - began < 2


async def test_https_is_trusted_by_its_authority_only(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    async with answering(FakeGuard(), certificate=str(certificate), key=str(key)) as url:
        async with GuardClient({"b": url}, TOKEN, ca_file=str(certificate)) as client:
            assert (await client.status("b")).region == "b"
        async with GuardClient({"b": url}, TOKEN) as client:
            with pytest.raises(Unreachable, match="certificate|CERTIFICATE"):
                await client.status("b")


async def test_an_address_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="certificate_file"):
        Address.of("https://10.0.0.1:7450", None, None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = GuardServer(FakeGuard(), TOKEN)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="cannot listen"):
            await server.serve(Address("127.0.0.1", taken.getsockname()[1]), lambda: None)
