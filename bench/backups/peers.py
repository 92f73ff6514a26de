"""The peers, as their manuals tell to use them: pgBackRest, Barman, and the common scripts.

All of them back up the server of ``bench.backups.data``, as the server's user, with what this machine has; what it
lacks is told by ``missing``.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from bench.backups.data import DATABASE, HOST, Source, free_port
from bench.backups.measuring import CommandFailed, Work, bytes_below, command, shell
from lab.state import S3Place
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import stop_server

PLAIN, ENCRYPTED = 1, 2  # pgBackRest's repositories
READY_SECONDS = 120.0
STANZA = "bench"


@dataclass
class Tools:
    """Programs of this machine, and a sentence for each that it lacks."""

    pgbackrest: Path | None = None
    barman: Path | None = None
    aws: Path | None = None
    nats: Path | None = None
    missing: list[str] = field(default_factory=list)

    @classmethod
    def here(cls, barman: str | None, nats: str | None) -> Tools:
        """``barman``, ``nats``: where they were installed for this benchmark."""
        found = cls(
            pgbackrest=_program("pgbackrest"),
            barman=_program(barman or "barman-cloud-backup"),
            aws=_program("aws"),
            nats=_program(nats or "nats"),
        )
        found._lacks(found.pgbackrest, "pgBackRest is left out: apt-get install pgbackrest")
        found._lacks(found.barman, "barman-cloud-backup is left out: bench/run_backups installs it from PyPI")
        found._lacks(found.aws, "pg_dump, gzip and `aws s3 cp` are left out: apt-get install awscli")
        found._lacks(found.nats, "the nats command is left out: bench/run_backups builds it where there is Go")
        return found

    def _lacks(self, program: Path | None, sentence: str) -> None:
        if program is None:
            self.missing.append(sentence)


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


@dataclass(frozen=True)
class Scripts:
    """``pg_basebackup`` and ``pg_dump`` with what people put behind them."""

    source: Source
    folder: Path  # of the server's user

    def _base(self, *options: str) -> str:
        tool = self.source.binaries / "pg_basebackup"
        return shlex.join([str(tool), *self._where, "-c", "fast", *options])

    @property
    def _where(self) -> list[str]:
        return ["-h", HOST, "-p", str(self.source.place.port), "-U", "postgres", "-w"]

    async def streamed(self) -> Work:
        """To nothing: no backup can be faster."""
        return Work(await self._shell(f"{self._base('-D', '-', '-Ft', '-X', 'fetch')} > /dev/null"))

    async def zstd(self) -> Work:
        """Through ``zstd -1 -T2`` into a file, which is not synchronised to the disk."""
        target = self.folder / "base.tar.zst"
        base = self._base("-D", "-", "-Ft", "-X", "fetch")
        spent = await self._shell(f"{base} | zstd -q -f -1 -T2 -o {shlex.quote(str(target))}")
        return Work(spent, target.stat().st_size)

    async def gzipped(self) -> Work:
        """``pg_basebackup -Ft -z``."""
        target = self.folder / "gzipped"
        spent = await self._shell(self._base("-D", str(target), "-Ft", "-z", "-X", "stream"))
        return Work(spent, await asyncio.to_thread(bytes_below, target))

    async def dumped(self, aws: Path, bucket: S3Place) -> Work:
        """``pg_dump -Fc``, gzip, ``aws s3 cp``."""
        target = self.folder / "shop.dump"
        dump = shlex.join([str(self.source.binaries / "pg_dump"), *self._where, "-Fc", "-f", str(target), DATABASE])
        packed = f"{target}.gz"
        copy = shlex.join([
            *(str(aws), "--endpoint-url", bucket.endpoint, "s3", "cp", "--only-show-errors"),
            *(packed, f"s3://{bucket.bucket}/dumps/shop.dump.gz"),
        ])  # fmt: skip
        script = f"{dump}; gzip -f {shlex.quote(str(target))}; {copy}"
        spent = await shell(script, environment=credentials(bucket))
        return Work(spent, await asyncio.to_thread(lambda: Path(packed).stat().st_size))

    async def clear(self) -> None:
        """Removes what the scripts left."""
        for path in self.folder.iterdir():
            if path.is_dir():
                await asyncio.to_thread(shutil.rmtree, path)
            else:
                path.unlink()

    async def _shell(self, script: str) -> float:
        return await shell(script, user=self.source.user)


@dataclass(frozen=True)
class Barman:
    """``barman-cloud-backup``, which knows object stores only; with its own defaults (no compression)."""

    program: Path
    source: Source
    bucket: S3Place

    async def backup(self) -> Work:
        arguments = [
            *(str(self.program), "--endpoint-url", self.bucket.endpoint, "--immediate-checkpoint"),
            *("-h", HOST, "-p", str(self.source.place.port), "-U", "postgres"),
            *(f"s3://{self.bucket.bucket}/barman", "bench"),
        ]
        return Work(await command(arguments, user=self.source.user, environment=credentials(self.bucket)))


def credentials(bucket: S3Place) -> dict[str, str]:
    """As boto3 and ``aws`` look for them. Checksums as stores other than AWS know them."""
    return {
        "AWS_ACCESS_KEY_ID": bucket.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.secret_key,
        "AWS_DEFAULT_REGION": bucket.region,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


@dataclass(frozen=True)
class PgBackRest:
    """Two local repositories, zst of level 1, two processes; the second repository is encrypted."""

    program: Path
    source: Source
    folder: Path  # of the server's user

    @property
    def _settings_file(self) -> Path:
        return self.folder / "pgbackrest.conf"

    async def prepare(self) -> None:
        """From now on the server archives its WAL into both repositories.

        Raises CommandFailed: this pgBackRest does not know this PostgreSQL, for one.
        """
        source = self.source
        self._settings_file.write_text(f"""[global]
repo1-path={self.folder}/repo1
repo2-path={self.folder}/repo2
repo2-cipher-type=aes-256-cbc
repo2-cipher-pass={secrets.token_urlsafe(48)}
repo1-retention-full=1
repo2-retention-full=1
compress-type=zst
compress-level=1
process-max=2
start-fast=y
expire-auto=n
log-path={self.folder}
lock-path={self.folder}
spool-path={self.folder}
log-level-console=warn
log-level-file=off
[{STANZA}]
pg1-path={source.place.data_directory}
pg1-port={source.place.port}
pg1-socket-path={source.socket}
pg1-user=postgres
""")
        self._settings_file.chmod(0o600)
        give_to(self._settings_file, source.user)
        await self._run("stanza-create")
        await source.archive_with(shlex.join([*self._base, "archive-push"]) + " %p")

    async def backup(self, repository: int) -> Work:
        """A full one."""
        spent = await self._run("backup", f"--repo={repository}", "--type=full")
        newest = max((self.folder / f"repo{repository}" / "backup" / STANZA).glob("*F"))
        return Work(spent, await asyncio.to_thread(bytes_below, newest))

    async def expire(self, repository: int) -> None:
        await self._run("expire", f"--repo={repository}")

    async def restore(self, repository: int, target: Path) -> Work:
        """Into an empty folder, to the end of the backup; the server runs and accepts writes when this returns."""
        port = free_port()
        options = f"-c port={port} -c archive_mode=off -c unix_socket_directories="
        start = shlex.join([
            *(str(self.source.binaries / "pg_ctl"), "-D", str(target), "-l", str(self.folder / "restored.log")),
            *("-w", "-t", "600", "-o", options, "start"),
        ])  # fmt: skip
        restore = shlex.join([
            *(*self._base, f"--repo={repository}", f"--pg1-path={target}"),
            *("--type=immediate", "--target-action=promote", "restore"),
        ])  # fmt: skip
        spent = await shell(f"{restore}; {start} > /dev/null", user=self.source.user)
        await _until_writable(port)
        return Work(spent)

    @property
    def _base(self) -> list[str]:
        return [str(self.program), f"--config={self._settings_file}", f"--stanza={STANZA}"]

    async def _run(self, *arguments: str) -> float:
        return await command([*self._base, *arguments], user=self.source.user)


async def _until_writable(port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        connection = await asyncpg.connect(host=HOST, port=port, user="postgres", database="postgres", ssl=False)
        try:
            if not await connection.fetchval("SELECT pg_is_in_recovery()"):
                return
        finally:
            await connection.close()
        if time.monotonic() > deadline:
            raise CommandFailed(f"the restored server did not end its recovery within {READY_SECONDS:.0f} s")
        await asyncio.sleep(0.02)


async def remove_restored(target: Path) -> None:
    """Ends the server of a restored folder and removes it."""
    await stop_server(target, gentle=False)
    await asyncio.to_thread(shutil.rmtree, target)
