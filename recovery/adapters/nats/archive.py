"""What can be told of a stream's archive while it passes by: which format it has, and whether it is whole.

Format 1 (servers up to 2.14) is a tar of the file store; format 2 (from 2.15) begins with ``NATSARC1`` and an entry
``state.json``, and ends with an entry of zeros. Both are packed as S2. Source: ``server/archive/archive.go`` and
``server/stream_backup.go`` of nats-server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from recovery.adapters.nats.s2 import FrameScanner
from recovery.errors import Corrupt

MAGIC = b"NATSARC1"
STATE_ENTRY = "state.json"
HEAD_BYTES = 64 << 10  # a state has a few hundred; one with many deleted sequences does not list them
_SENTINEL = bytes(5)
_TAR_BLOCK = 512


@dataclass(frozen=True)
class ArchiveHead:
    """``state`` is the stream's, of format 2."""

    format: int
    state: dict[str, Any] | None


class ArchiveCheck:
    """Fed with all bytes of one ``stream.tar.s2``."""

    def __init__(self) -> None:
        self.bytes = 0
        self._frames = FrameScanner(HEAD_BYTES)

    def feed(self, data: bytes) -> None:
        """Raises Corrupt."""
        self.bytes += len(data)
        self._frames.feed(data)

    def head(self) -> ArchiveHead | None:
        """None while too little has come. Raises Corrupt: it is of neither format."""
        return _head(bytes(self._frames.head), len(self._frames.head) >= HEAD_BYTES)

    def finish(self) -> ArchiveHead:
        """Raises Corrupt: the archive is truncated."""
        tail = self._frames.tail()
        head = _head(bytes(self._frames.head), True)
        if head is None:
            raise Corrupt("it ends too early")
        if head.format == 2:
            if not tail.endswith(_SENTINEL):
                raise Corrupt("it ends without the mark of its end")
        elif tail[-_TAR_BLOCK:].strip(b"\0"):
            raise Corrupt("it ends without the empty block at the end of a tar")
        return head


def _head(data: bytes, complete: bool) -> ArchiveHead | None:
    if len(data) < len(MAGIC) and not complete:
        return None
    if not data.startswith(MAGIC):
        if len(data) >= _TAR_BLOCK and data[257:262] == b"ustar":
            return ArchiveHead(1, None)
        if len(data) < _TAR_BLOCK and not complete:
            return None
        raise Corrupt("it is neither a tar nor an archive that begins with NATSARC1")
    try:
        name, body = _first_entry(data)
        if name != STATE_ENTRY:
            raise Corrupt(f"its first entry is {name!r} and not {STATE_ENTRY}")
        return ArchiveHead(2, json.loads(body))
    except IndexError as error:
        if complete:
            raise Corrupt(f"it ends before its {STATE_ENTRY} does") from error
        return None
    except ValueError as error:
        raise Corrupt(f"its {STATE_ENTRY} cannot be read: {error}") from error


def _first_entry(data: bytes) -> tuple[str, bytes]:
    """Raises IndexError where it is not there completely yet."""
    at, numbers = len(MAGIC), []
    for _ in range(5):  # length of the name, timestamp, sequence, sizes of headers and payload
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(value)
    body = at + numbers[0]
    end = body + numbers[3] + numbers[4]
    if end > len(data):
        raise IndexError(end)
    return data[at:body].decode(errors="replace"), data[body:end]
