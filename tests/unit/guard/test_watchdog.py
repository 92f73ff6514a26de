"""The kernel's watchdog: petted while a reset would come in time, disarmed by an orderly end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recovery.errors import BadInput
from recovery.guard.watchdog import KernelWatchdog
from tests.fakes.guard import in_virtual_time


def _petted(device: Path, safe_for: list[float], seconds: float) -> bytes:
    async def scene() -> None:
        watchdog = KernelWatchdog(device, ttl=10.0)
        assert watchdog.timeout == 5
        await watchdog.open()
        petting = asyncio.create_task(watchdog.run(lambda: safe_for[0]))
        await asyncio.sleep(seconds)
        petting.cancel()
        await asyncio.gather(petting, return_exceptions=True)

    in_virtual_time(scene())
    return device.read_bytes()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "watchdog"
    path.touch()
    return path


def test_it_is_petted_while_its_reset_would_come_before_the_deadline(device: Path) -> None:
    assert _petted(device, [float("inf")], 10).count(b"\0") >= 8


def test_it_is_not_petted_when_the_reset_would_come_too_late(device: Path) -> None:
    assert _petted(device, [4.9], 10) == b""


def test_an_orderly_end_disarms_it(device: Path) -> None:
    async def scene() -> None:
        watchdog = KernelWatchdog(device, ttl=10.0)
        await watchdog.open()
        await watchdog.close()
        await watchdog.close()

    in_virtual_time(scene())
    assert device.read_bytes() == b"V"  # "magic close": without it the host is reset


def test_one_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="watchdog_device"):
        in_virtual_time(KernelWatchdog(tmp_path / "none", 10.0).open())
    in_virtual_time(KernelWatchdog(None, 10.0).open())  # not configured: nothing to open
