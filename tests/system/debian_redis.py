"""Debian's Redis 7, with ACL users, and with TLS where it has a certificate."""

from __future__ import annotations

import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.processes import die_with
from recovery.adapters.redis.connection import RedisLogin, RedisServer
from recovery.adapters.redis.scratch import ServerTls
from tests.integration.redis_servers import OwnRedis

BACKUP_RIGHTS = "+psync +replconf +ping +info +function|list"
DEBIAN = Path("/usr/bin/redis-server")


@dataclass
class Redis7(OwnRedis):
    """Debian's, a primary; by TLS alone where it has a certificate."""

    tls: ServerTls | None = None
    upstream: int | None = None
    name: str | None = None  # in its certificate, where that is not its address
    demands: bool = False  # a certificate of its authority from everybody

    @property
    def context(self) -> ssl.SSLContext | None:
        if self.tls is None:
            return None
        made = ssl.create_default_context(cafile=str(self.tls.ca))
        if self.demands:
            made.load_cert_chain(str(self.tls.certificate), str(self.tls.key))
        return made

    @property
    def server(self) -> RedisServer:
        return RedisServer("127.0.0.1", self.port, RedisLogin(None, self.password, self.context, self.name))

    @property
    def as_backup(self) -> RedisServer:
        return RedisServer("127.0.0.1", self.port, RedisLogin("backup", "of-the-backup", self.context, self.name))

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"dir {self.folder}", 'save ""', f"appendonly {'yes' if self.append_only else 'no'}"]
        lines += ["repl-diskless-sync-delay 0", f"requirepass {self.password}", f"masterauth {self.password}"]
        lines += [f"user backup on >of-the-backup {BACKUP_RIGHTS}"]
        if self.tls:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                "tls-replication yes",
                f"tls-auth-clients {'yes' if self.demands else 'no'}",
            ]
            lines += [f"tls-cert-file {self.tls.certificate}", f"tls-key-file {self.tls.key}"]
            lines += [f"tls-ca-cert-file {self.tls.ca}"]
        else:
            lines += [f"port {self.port}"]
        if self.upstream:
            lines += [f"replicaof 127.0.0.1 {self.upstream}"]
        (self.folder / "redis.conf").write_text("\n".join([*lines, *self.lines]) + "\n")
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [str(DEBIAN), str(self.folder / "redis.conf")],
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with(os.getpid()),
            )
        await self.wait_for("PING", expected="PONG")
