"""The kernel's watchdog: it resets the host of a guard that does not pet it in time.

The device's protocol is the kernel's (Documentation/watchdog/watchdog-api): any write is a sign of life, ``V`` before
closing disarms it ("magic close"), WDIOC_SETTIMEOUT sets the seconds.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

import structlog

from recovery.errors import BadInput

log = structlog.get_logger("recovery.guard")

_SET_TIMEOUT = 0xC0045706  # _IOWR('W', 6, int)


class KernelWatchdog:
    """Petted only while the reset that would follow comes before any deadline: half a ttl after the last sign.

    None as the device: nothing is opened, and ``run`` only waits.
    """

    def __init__(self, device: Path | None, ttl: float) -> None:
        self._device = device
        self._descriptor: int | None = None
        self.timeout = max(1, int(ttl / 2))

    async def open(self) -> None:
        """Raises BadInput when the device cannot be opened; from then on the host depends on this process."""
        if self._device is None:
            return
        try:
            self._descriptor = await asyncio.to_thread(os.open, self._device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadInput(
                f"the watchdog {self._device} cannot be opened ({error.strerror}): does another program hold it? "
                "Load a driver (softdog), or take guards.watchdog_device out of the configuration"
            ) from None
        try:
            answer = fcntl.ioctl(self._descriptor, _SET_TIMEOUT, struct.pack("i", self.timeout))
            self.timeout = int(struct.unpack("i", answer)[0])
        except OSError as error:
            log.warning("the watchdog keeps its own time-out", device=str(self._device), error=error.strerror)

    async def run(self, safe_for: Callable[[], float]) -> None:
        """Pets until cancelled, after ``open``. ``safe_for``: seconds for which this process may stop without harm."""
        while True:
            if self._descriptor is not None and safe_for() > self.timeout:
                await asyncio.to_thread(os.write, self._descriptor, b"\0")
            await asyncio.sleep(self.timeout / 4)

    async def close(self) -> None:
        """The magic close: after an orderly end the host lives on."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            await asyncio.to_thread(os.write, descriptor, b"V")
            os.close(descriptor)
