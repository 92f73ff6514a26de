"""``archive_command`` and ``restore_command`` of a server that archives by files: hands over to the worker beside it.

It runs once for each segment, so it imports next to nothing and does nothing itself::

    archive_command = 'recovery-wal push /run/recovery/shop.sock %p %f'
    restore_command = 'recovery-wal fetch /run/recovery/shop.sock %f %p'

Protocol, over a Unix socket: ``push NAME SIZE\\n`` and the bytes, answered by ``ok\\n`` or ``error WORDS\\n``;
``fetch NAME\\n``, answered by ``ok SIZE\\n`` and the bytes, ``none\\n``, or ``error WORDS\\n``. Exit codes are
PostgreSQL's: 0 done; 1 not archived (fetch: no such file); 126 the answer is not known, so a recovery must stop.
"""

import sys
from _socket import AF_UNIX, socket  # what `socket` itself is made of: it imports enum and selectors, this nothing

SECONDS = 600.0
BLOCK = 1 << 20
USAGE = "usage: recovery-wal push SOCKET PATH NAME | recovery-wal fetch SOCKET NAME PATH"


def main() -> int:
    arguments = sys.argv[1:]
    if len(arguments) != 4 or arguments[0] not in ("push", "fetch"):
        sys.stderr.write(USAGE + "\n")
        return 2
    action, address, first, second = arguments
    failed = 1 if action == "push" else 126
    connection = socket(AF_UNIX)
    try:
        connection.settimeout(SECONDS)
        connection.connect(address)
        return _push(connection, first, second) if action == "push" else _fetch(connection, first, second)
    except OSError as error:
        sys.stderr.write(f"recovery-wal: {address}: {error}\n")
        return failed
    finally:
        connection.close()


def _push(connection: socket, path: str, name: str) -> int:
    with open(path, "rb") as file:  # noqa: PTH123  # pathlib takes longer to import than all of this
        body = file.read()
    connection.sendall(b"push %s %d\n" % (name.encode(), len(body)))
    connection.sendall(body)
    return _said(_line(connection)[0], 1)


def _fetch(connection: socket, name: str, path: str) -> int:
    connection.sendall(b"fetch %s\n" % name.encode())
    line, block = _line(connection)
    if line == b"none":
        return 1
    if not line.startswith(b"ok "):
        return _said(line, 126)
    left = int(line[3:])
    with open(path, "wb") as file:  # noqa: PTH123
        while left:
            if not block:
                raise ConnectionError("the worker went away in the middle of the answer")
            file.write(block)
            left -= len(block)
            block = connection.recv(min(left, BLOCK)) if left else b""
    return 0


def _line(connection: socket) -> "tuple[bytes, bytes]":
    """The first line of the answer, and what came behind it already."""
    found = b""
    while b"\n" not in found:
        block = connection.recv(BLOCK)
        if not block:
            return found, b""
        found += block
    line, _, rest = found.partition(b"\n")
    return line, rest


def _said(line: bytes, failed: int) -> int:
    if line == b"ok":
        return 0
    words = line.decode(errors="replace").strip().removeprefix("error ") or "the worker went away without an answer"
    sys.stderr.write(f"recovery-wal: {words}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
