"""A process that archives a server's WAL, to be killed. Its arguments: a JSON file; its output: one state per line."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from recovery.adapters.folder import FolderStore
from recovery.adapters.postgres.wal_stream import WalStream
from recovery.backup.sealing import Sealer
from recovery.backup.signing import Signer, Verifier
from recovery.backup.wal.archiver import ArchiveBudget, WalArchiver
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.wal_progress import ArchiveState
from recovery.errors import RecoveryError
from recovery.ports.postgres import PostgresLogin


def tell(state: ArchiveState) -> None:
    moment = state.current_at.isoformat() if state.current_at else None
    line = {"archived": state.archived, "timeline": state.timeline, "lag": state.lag_bytes, "gap": state.gap}
    print(json.dumps({**line, "current_at": moment}), flush=True)


async def main(settings: dict[str, object]) -> None:
    signer = Signer(str(settings["signing_key"]))
    stores = [FolderStore(Path(str(path)).name, Path(str(path))) for path in settings["folders"]]  # type: ignore[attr-defined]
    login = PostgresLogin("127.0.0.1", int(str(settings["port"])), "postgres", "postgres", sslmode="disable")
    async with Sealer([str(settings["recipient"])], threads=1) as sealer:
        keys = ArchiveKeys("shop", "run-1", 7, sealer, signer, Verifier([signer.public_key]))
        archiver = WalArchiver(keys, stores, budget=ArchiveBudget(flush_seconds=float(str(settings["flush"]))))
        try:
            await archiver.run(WalStream(login, "wal_archive"), tell)
        except RecoveryError as error:
            print(json.dumps({"error": error.kind, "message": str(error)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
