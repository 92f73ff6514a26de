"""Names of everything that a WAL archive stores, relative to the location's root.

<group>/postgres-wal/<system identifier>/<branch>/history.json
<group>/postgres-wal/<system identifier>/<branch>/pieces/<high LSN>/<start>-<end>[.e<epoch>].json
<group>/postgres-wal/<system identifier>/<branch>/objects/<high LSN>/<start>-<end>.<digest>.zst.age

A branch is a timeline and its ancestry (``00000001``, ``00000002-9f3c01aa``). A piece exists when its signed record in
``pieces`` does; the record names the object. By hand: ``age -d -i key object | zstd -d`` for each piece in order.
"""

from __future__ import annotations

import re

from recovery.backup.layout import safe_name
from recovery.domain.wal_archive import Branch, WalPiece
from recovery.errors import BadInput

STORE = "postgres-wal"
RECORD = ".json"

_FOLDER = re.compile(r"[0-9A-F]{8}")


def archives_prefix(group: str) -> str:
    """Below it one folder per system identifier."""
    return f"{safe_name(group, 'group')}/{STORE}/"


def archive_prefix(group: str, system_identifier: str) -> str:
    """Of one server's archive: a restored copy that starts over with a new identifier never writes into it."""
    if not system_identifier.isdigit():
        raise BadInput(f"{system_identifier!r} is no system identifier of PostgreSQL: expected a number")
    return f"{archives_prefix(group)}{system_identifier}/"


def history_key(prefix: str, folder: str) -> str:
    return f"{prefix}{folder}/history.json"


def pieces_prefix(prefix: str, branch: Branch) -> str:
    return f"{prefix}{branch.folder}/pieces/"


def folder_of(position: int) -> str:
    """The folder of the pieces that begin in the same 4 GiB as an LSN. Names sort by position."""
    return f"{position >> 32:08X}"


def is_folder(name: str) -> bool:
    """Whether it can be one of these."""
    return _FOLDER.fullmatch(name) is not None


def piece_key(prefix: str, branch: Branch, piece: WalPiece) -> str:
    return f"{pieces_prefix(prefix, branch)}{folder_of(piece.start)}/{piece.name}{RECORD}"


def object_key(prefix: str, branch: Branch, piece: WalPiece, digest: str) -> str:
    """Named by its own SHA-256 (hex): encryption is never the same twice, so no two writers share an object."""
    span = f"{piece.start:016X}-{piece.end:016X}"
    return f"{prefix}{branch.folder}/objects/{folder_of(piece.start)}/{span}.{digest[:16]}.zst.age"


def piece_of(key: str) -> WalPiece | None:
    """The piece that a record's key names; None: a stray object, of which nothing here wrote the name there."""
    folder, name = key.rsplit("/", 2)[-2:]
    if not name.endswith(RECORD):
        return None
    try:
        piece = WalPiece.parse(name.removesuffix(RECORD))
    except BadInput:
        return None
    return piece if (folder, name) == (folder_of(piece.start), piece.name + RECORD) else None
