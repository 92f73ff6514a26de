"""What a running lab looks like: the models behind `lab.json`.

`lab.json` is written by the supervisor alone, with mode 600 because it holds the lab's passwords, and lets any
process of the same user attach to a running lab.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

ServerState = Literal["running", "killed", "frozen", "exited", "absent"]
StandbyMode = Literal["streaming", "none"]

# Everything a lab can run. "witness" is the S3 store outside both regions.
ALL: frozenset[str] = frozenset(
    {"postgres", "nats", "redis", "s3", "app", "witness", "temporal", "dns", "webhook"},
)
# What else it can run, when it is asked for by name: not every machine has it.
SEARCH = "search"
OPTIONAL = frozenset({SEARCH})
# Servers that belong to no region live in these two places.
WITNESS = "witness"
NATS_HUB = "nats-hub"
"""Where the leaf nodes of three regions and more meet, outside all of them."""
CONTROL = "control"
# Places without servers of their own, from which the regions are seen: a third site, where the third monitor and the
# operators are, and the customers.
OUTSIDE = "outside"
CLIENTS = "clients"
# What of the product runs in a region, and PostgreSQL with it, once the guards have taken over.
GUARD, COMPANION, MONITOR, WORKER = "guard", "companion", "monitor", "worker"
ATTENDANTS = (WORKER, MONITOR, GUARD)
# What recovery/adapters/nats/fence.py writes, too: who has no permissions of his own may publish nothing.
FENCED = (
    "# Written by the guard: nobody but users with permissions of their own publishes here.\n"
    'default_permissions: { publish: { deny: ">" } }\n'
)
MARK = "RECOVERY_LAB_SERVER"
"""Environment variable by which processes are known as a server's when their parent is gone."""
STATE_FILE = "lab.json"
PROXY_SOCKET = "proxy.sock"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PostgresPlace(_Model):
    """Where a region's PostgreSQL is, or (without a standby) where one is to be restored."""

    region: str
    host: str
    port: int
    data_directory: Path
    bin_directory: Path
    superuser: str = "postgres"
    password: str
    database: str = "shop"
    run_as: str | None
    """The system user that must own the data directory and run the server; None: the current user."""
    backup_user: str = "backup"
    backup_password: str
    app_user: str = "app"
    app_password: str
    replication_user: str = "replicator"
    replication_password: str = ""
    """The region's own, as a standby: an archiver with another user is never taken for a member."""
    version: int

    def dsn(self, user: str | None = None, database: str | None = None, *, host: str | None = None) -> str:
        """Return a libpq URL for `user` ("postgres", "backup" or "app"; default: the superuser)."""
        user = user or self.superuser
        passwords = {
            self.superuser: self.password,
            self.backup_user: self.backup_password,
            self.app_user: self.app_password,
        }
        return (
            f"postgresql://{user}:{quote(passwords[user], safe='')}@{host or self.host}:{self.port}"
            f"/{database or self.database}"
        )


class S3Place(_Model):
    """An S3 store with its one ready-made bucket."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"


class SearchPlace(_Model):
    """A region's OpenSearch, and the folder for snapshots that is outside all regions."""

    url: str
    repository: Path


class TemporalPlace(_Model):
    """The lab's Temporal server."""

    address: str
    ui_address: str
    namespace: str = "default"
    database_file: Path


class DnsPlace(_Model):
    """The authoritative DNS server; `zone` and key name have no trailing dot."""

    host: str
    port: int
    zone: str
    tsig_key_name: str
    tsig_secret: str
    tsig_algorithm: str = "hmac-sha256"


class WebhookPlace(_Model):
    """The receiver of notifications: POST to `url`, read JSON lines from `file`."""

    url: str
    file: Path


class NatsPlace(_Model):
    """A region's NATS. A stream's mirror in another region is reached through leaf nodes, by its domain."""

    url: str
    domain: str
    user: str
    password: str
    """Of the administrator: guards, plans, whoever sets streams up."""
    app_user: str
    app_password: str
    fence_file: Path
    """Included by the configuration: what the application may publish. At rest: nothing."""
    pid_file: Path

    def fence_anew(self) -> None:
        """Write the fence where a lost disk took it along: the server does not start without the file."""
        file = self.fence_file.resolve()
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(FENCED)

    @property
    def app_url(self) -> str:
        """Where the application publishes, with its name and password."""
        return self.url.replace("://", f"://{self.app_user}:{self.app_password}@", 1)

    @property
    def admin_url(self) -> str:
        return self.url.replace("://", f"://{self.user}:{self.password}@", 1)


class Delay(_Model):
    """What `place` sends and gets is `seconds` late each way; of one service, or of all."""

    place: str
    service: str | None = None
    seconds: float


class Server(_Model):
    """One server process of the lab."""

    name: str
    region: str
    service: str
    host: str
    port: int
    pid: int | None = None
    pids: list[int] = []
    data_directory: Path | None = None
    log_file: Path
    ready: str | None = None
    """Words in its log by which it says that it is ready; None: it is asked what it is for."""
    log_offset: int = 0
    """Where in its log the present start begins."""
    state: ServerState = "running"
    comes_back: bool = False
    """Started again when it ends and the lab did not end it, as a service manager does."""
    exit_code: int | None = None
    """How its process ended the last time, when the lab did not end it: minus the signal's number, or its own code."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class Link(_Model):
    """A proxied path: `service` of `place` as it is seen from `vantage`."""

    vantage: str
    place: str
    service: str
    host: str
    port: int
    target_host: str
    target_port: int


class LabState(_Model):
    """The whole of `lab.json`."""

    folder: Path
    folder_made: bool
    """The lab made its folder and so removes it; otherwise only its content."""
    created_at: datetime
    supervisor_pid: int
    network: str
    regions: list[str]
    standby: StandbyMode
    postgres_version: int
    services: list[str]
    reserved_ports: list[int]
    outer_folders: list[Path] = []
    """Folders outside `folder` that belong to the lab (as root, where `folder` is out of PostgreSQL's reach)."""
    servers: list[Server] = []
    links: list[Link] = []
    partitions: list[tuple[str, str]] = []
    one_way: list[tuple[str, str]] = []
    """(from, to): what the first sends to the second is lost, and the other way it arrives."""
    delays: list[Delay] = []
    guarded: bool = False
    """PostgreSQL, Redis and NATS are no primaries unless a guard makes them so."""
    handed_over: bool = False
    """PostgreSQL belongs to the guards: the lab does not start it any more."""
    guards: dict[str, str] = {}
    jetstream: dict[str, NatsPlace] = {}
    postgres: dict[str, PostgresPlace] = {}
    nats: dict[str, str] = {}
    redis: dict[str, str] = {}
    s3: dict[str, S3Place] = {}
    app: dict[str, str] = {}
    search: dict[str, SearchPlace] = {}
    temporal: TemporalPlace | None = None
    dns: DnsPlace | None = None
    webhook: WebhookPlace | None = None

    def server(self, name: str) -> Server:
        """Return the server called `name` ("region-a/postgres"). Raises KeyError."""
        for server in self.servers:
            if server.name == name:
                return server
        raise KeyError(name)
