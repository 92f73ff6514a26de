"""The program of one sealing process: compresses and encrypts, or decrypts and decompresses, one chunk at a time.

It is run as a script and imports nothing of this library, so that a process costs about 20 MB and a tenth of a
second. It reads requests from standard input and answers on standard output. pyrage holds the interpreter lock while it
works, which is why this is not a thread.

Protocol (all integers big-endian): the parent sends one frame with the JSON ``{"recipients": [...]}`` or
``{"identities": [...]}``, then for each chunk a frame with a JSON header followed by a frame with the bytes. The answer
is a frame with a JSON header followed by a frame with the bytes. A frame is a length of 8 bytes and that many bytes.
The end of standard input ends the process. Keys come through the pipe, never by argument or environment.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import struct
import sys
from typing import BinaryIO

import pyrage
import zstandard

LENGTH = struct.Struct(">Q")
LEVEL = 1
NO_KEY = "No matching keys found"  # what pyrage says when the header is sound and no identity at hand fits
PR_SET_PDEATHSIG = 1


class Unsealable(Exception):
    """``kind`` is the name of the error that the parent raises."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_frame(source: BinaryIO) -> bytes | None:
    """One frame, or None at the end of the stream (also in mid-frame: the parent is gone)."""
    head = source.read(LENGTH.size)
    if head is None or len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = source.read(length)
    return body if body is not None and len(body) == length else None


def write_frame(target: BinaryIO, body: bytes) -> None:
    target.write(LENGTH.pack(len(body)))
    target.write(body)


def seal(plain: bytes, recipients: list[pyrage.x25519.Recipient], level: int = LEVEL) -> bytes:
    """zstd, then a complete binary age file for all recipients."""
    return pyrage.encrypt(zstandard.ZstdCompressor(level=level).compress(plain), recipients)  # type: ignore[no-any-return]


def unseal(stored: bytes, expected: dict[str, object], identities: list[pyrage.x25519.Identity]) -> bytes:
    """The plain bytes. Size and SHA-256 of the stored bytes are checked before anything is decrypted.

    Args:
        expected: ``size`` and ``sha256`` of the stored bytes, ``plain_size``.

    Raises:
        Unsealable: with kind ``Corrupt`` or ``WrongKey``.
    """
    check_stored(stored, expected)
    try:
        packed = pyrage.decrypt(stored, identities)
    except pyrage.DecryptError as error:
        if str(error) == NO_KEY:
            raise Unsealable("WrongKey", "no identity at hand opens it") from error
        raise Unsealable("Corrupt", f"it is no sound age file: {error}") from error
    return unpack(packed, expected["plain_size"])


def check_stored(stored: bytes, expected: dict[str, object]) -> None:
    """Raises Unsealable (Corrupt): size or SHA-256 are not those that are expected."""
    if len(stored) != expected["size"]:
        raise Unsealable("Corrupt", f"it has {len(stored)} bytes, the manifest says {expected['size']}")
    digest = hashlib.sha256(stored).hexdigest()
    if digest != expected["sha256"]:
        raise Unsealable("Corrupt", f"its SHA-256 is {digest}, the manifest says {expected['sha256']}")


def unpack(packed: bytes, plain_size: object) -> bytes:
    """Decompresses exactly one frame of exactly the promised size: a forged size cannot exhaust the memory."""
    try:
        size = zstandard.frame_content_size(packed)
        if size != plain_size:
            raise Unsealable("Corrupt", f"it holds {size} bytes, the manifest says {plain_size}")
        plain = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Unsealable("Corrupt", f"it does not decompress: {error}") from error
    if len(plain) != plain_size:
        raise Unsealable("Corrupt", f"it decompresses to {len(plain)} bytes, the manifest says {plain_size}")
    return plain


def die_with_parent() -> None:
    """Asks the kernel (Linux) to end this process with the thread that started it, however that one ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answers requests until the parent closes its end."""
    opening = read_frame(source)
    if opening is None:
        return
    keys = json.loads(opening)
    recipients = [pyrage.x25519.Recipient.from_str(text) for text in keys.get("recipients", [])]
    identities = [pyrage.x25519.Identity.from_str(text) for text in keys.get("identities", [])]
    while (header := read_frame(source)) is not None and (body := read_frame(source)) is not None:
        answer: dict[str, object]
        try:
            if recipients:
                result = seal(body, recipients, json.loads(header).get("level", LEVEL))
                answer = {"sha256": hashlib.sha256(result).hexdigest()}
            else:
                result = unseal(body, json.loads(header), identities)
                answer = {}
        except Unsealable as error:
            result, answer = b"", {"error": error.kind, "message": str(error)}
        del body
        write_frame(target, json.dumps(answer).encode())
        write_frame(target, result)
        target.flush()
        del result


def main() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # the parent went away in mid-answer: nobody is left to read a traceback


if __name__ == "__main__":
    main()
