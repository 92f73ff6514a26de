"""The framing of S2 streams, the extension of Snappy in which JetStream packs its snapshots.

Formats: https://github.com/google/snappy/blob/main/framing_format.txt and format_description.txt, with the changes of
https://github.com/klauspost/compress/tree/master/s2 (stream identifier ``S2sTwO``, blocks up to 4 MiB, repeated
offsets). Frames are walked without being unpacked: a truncated stream ends in the middle of one. Blocks do not refer to
one another, so the first ones and the last one can be unpacked alone.
"""

from __future__ import annotations

from recovery.errors import Corrupt

_IDENTIFIERS = (b"\xff\x06\x00\x00S2sTwO", b"\xff\x06\x00\x00sNaPpY")
_COMPRESSED, _PLAIN, _IDENTIFIER = 0x00, 0x01, 0xFF
_LONGEST_BLOCK = 4 << 20


class FrameScanner:
    """Fed with an S2 stream piece by piece. Keeps at most one frame, and ``head_bytes`` of unpacked beginning."""

    def __init__(self, head_bytes: int) -> None:
        self.head = bytearray()  # the first unpacked bytes
        self._wanted = head_bytes
        self._rest = b""
        self._last: tuple[int, bytes] | None = None
        self._begun = False

    def feed(self, data: bytes) -> None:
        """Raises Corrupt for what is no S2 stream."""
        buffer = self._rest + data if self._rest else data
        offset, size = 0, len(buffer)
        if not self._begun:
            if size < 10:
                self._rest = buffer
                return
            if not buffer.startswith(_IDENTIFIERS):
                raise Corrupt("it does not begin as an S2 stream")
            self._begun = True
        kind, start, end = -1, 0, 0
        while size - offset >= 4:
            following = offset + 4 + (buffer[offset + 1] | buffer[offset + 2] << 8 | buffer[offset + 3] << 16)
            if following > size:
                break
            if buffer[offset] <= _PLAIN:
                kind, start, end = buffer[offset], offset + 4, following
                if len(self.head) < self._wanted:
                    self.head += unpacked(kind, buffer[start:end], self._wanted)
            elif buffer[offset] < 0x80:
                raise Corrupt(f"it has an S2 frame of the unknown kind {buffer[offset]}")
            offset = following
        if kind >= 0:
            self._last = (kind, buffer[start:end])
        self._rest = buffer[offset:]

    def tail(self) -> bytes:
        """The unpacked last block. Raises Corrupt where the stream ends in the middle of a frame or has no block."""
        if not self._begun or self._rest:
            raise Corrupt("it ends in the middle of an S2 frame")
        if self._last is None:
            raise Corrupt("it is an S2 stream without content")
        return unpacked(*self._last)


def unpacked(kind: int, frame: bytes, enough: int = _LONGEST_BLOCK) -> bytes:
    """The content of a frame, which begins with a checksum of four bytes; not much more than ``enough`` of it.

    Raises Corrupt.
    """
    if len(frame) < 4:
        raise Corrupt("it has an S2 frame that is too short")
    return frame[4:] if kind == _PLAIN else _block(frame[4:], enough)


def _block(data: bytes, enough: int) -> bytes:
    try:
        size, at = _uvarint(data, 0)
        if size > _LONGEST_BLOCK:
            raise Corrupt(f"it has an S2 block of {size} bytes")
        out = bytearray()
        offset = 0
        while at < len(data) and len(out) < enough:
            tag = data[at]
            if tag & 3 == 0:
                length, at = _literal(data, at)
                out += data[at : at + length]
                at += length
                continue
            length, offset, at = _copy(data, at, offset)
            _repeat(out, offset, length)
    except IndexError as error:
        raise Corrupt("it has an S2 block that ends too early") from error
    if len(out) > size or len(out) < min(size, enough):
        raise Corrupt(f"it has an S2 block of {len(out)} bytes that should have {size}")
    return bytes(out)


def _uvarint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise Corrupt("it has a number that is too long")


def _literal(data: bytes, at: int) -> tuple[int, int]:
    """Length, and where the bytes begin."""
    length = data[at] >> 2
    at += 1
    if length >= 60:
        width = length - 59
        length = int.from_bytes(data[at : at + width], "little")
        at += width
    return length + 1, at


def _copy(data: bytes, at: int, last: int) -> tuple[int, int, int]:
    """Length, offset, and where the next element begins. An offset of zero in the short form repeats the last one."""
    tag = data[at]
    if tag & 3 == 1:
        offset = (tag & 0xE0) << 3 | data[at + 1]
        length = tag >> 2 & 7
        at += 2
        if offset:
            return length + 4, offset, at
        if length >= 5:  # one, two or three bytes of length follow
            width, base = length - 4, (4, 1 << 8, 1 << 16)[length - 5]
            length = base + int.from_bytes(data[at : at + width], "little")
            at += width
        return length + 4, last, at
    width = 2 if tag & 3 == 2 else 4
    return (tag >> 2) + 1, int.from_bytes(data[at + 1 : at + 1 + width], "little"), at + 1 + width


def _repeat(out: bytearray, offset: int, length: int) -> None:
    if not 0 < offset <= len(out):
        raise Corrupt("it has an S2 block that refers to what is before its beginning")
    start = len(out) - offset
    while length > 0:  # what is copied may be what this very copy writes: twice as much each time
        piece = out[start : start + length]
        out += piece
        length -= len(piece)
