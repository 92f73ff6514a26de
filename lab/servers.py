"""How each server other than PostgreSQL is configured and started."""

from __future__ import annotations

import base64
import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from lab import packages
from lab.addresses import LOCALHOST, PORTS_OF_ONE_STORE
from lab.control import python_environment
from lab.state import DnsPlace, S3Place, Server, TemporalPlace
from lab.supervisor import Launch

ZONE = "shop.test"
RECORDS = ("db", "api", "www", "admin", "cdn")


@dataclass(frozen=True)
class Planned:
    """A server that is configured and can be started."""

    server: Server
    launch: Launch


@dataclass(frozen=True)
class Site:
    """Where one region's (or the witness's, or the control) servers live."""

    folder: Path
    name: str
    host: str
    ports: dict[str, int]

    def server(self, service: str, port: int, data: Path | None) -> Server:
        return Server(
            name=f"{self.name}/{service}",
            region=self.name,
            service=service,
            host=self.host,
            port=port,
            data_directory=data,
            log_file=self.folder / "log" / f"{self.name}-{service}.log",
            state="absent",
        )

    def data(self, service: str) -> Path:
        """Return (and make) the data folder of a service."""
        path = self.folder / self.name / service
        path.mkdir(parents=True, exist_ok=True)
        return path

    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder / "tmp"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)


def nats(site: Site) -> Planned:
    """NATS with JetStream and its monitoring port."""
    data = site.data("nats")
    port = site.ports["nats"]
    configuration = site.folder / site.name / "nats.conf"
    configuration.write_text(
        f"server_name: {site.name}\nlisten: {site.host}:{port}\nhttp: {site.host}:{site.ports['nats-monitor']}\n"
        f"jetstream {{ store_dir: {json.dumps(str(data))}, max_file_store: 10GB }}\n"
    )
    launch = Launch(
        argv=[str(packages.script("nats-server")), "-c", str(configuration)], env=site.environment(), cwd=data
    )
    return Planned(site.server("nats", port, data), launch)


def redis(site: Site, password: str, guarded: bool = False) -> Planned:
    """Redis with a password and an append-only file; `guarded`: a replica of nowhere, which refuses writes."""
    data = site.data("redis")
    port = site.ports["redis"]
    configuration = site.folder / site.name / "redis.conf"
    write_private(
        configuration,
        f"bind {site.host}\nport {port}\nprotected-mode no\nrequirepass {password}\nmasterauth {password}\n"
        f"appendonly yes\nappendfsync everysec\ndir {json.dumps(str(data))}\ndaemonize no\n"
        + (f"replicaof {LOCALHOST} 1\nrepl-timeout 10\nrepl-ping-replica-period 2\n" if guarded else ""),
    )
    launch = Launch(argv=[str(packages.redis_server()), str(configuration)], env=site.environment(), cwd=data)
    return Planned(site.server("redis", port, data), launch)


def s3_place(site: Site) -> S3Place:
    return S3Place(
        endpoint=f"http://{site.host}:{site.ports['s3']}",
        access_key=f"LAB{secrets.token_hex(8).upper()}",
        secret_key=secrets.token_hex(20),
        bucket=f"recovery-{site.name}",
    )


def s3(site: Site, place: S3Place) -> Planned:
    """SeaweedFS as an S3 store."""
    data = site.data("s3")
    identities = site.folder / site.name / "s3.json"
    credentials = [{"accessKey": place.access_key, "secretKey": place.secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    write_private(
        identities, json.dumps({"identities": [{"name": "lab", "credentials": credentials, "actions": actions}]})
    )
    own = {name: site.ports[f"{site.name}/{name}"] for name in PORTS_OF_ONE_STORE}
    options = {
        "dir": ".",
        "ip": site.host,
        "ip.bind": site.host,
        "s3": "true",
        "s3.ip.bind": site.host,
        "s3.config": identities,
        "s3.port": site.ports["s3"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.iam.readOnly": "false",  # the administrator may add identities, by the IAM API on the same port
        "s3.localSocket": "s3.sock",
        "filer.localSocket": "filer.sock",
        "master.volumeSizeLimitMB": 128,
        "volume.max": 200,
        "volume.preStopSeconds": 0,
        "master.telemetry": "false",
        "master.electionTimeout": "1s",  # its only member waits it out at each start: ten seconds unless told
        **{f"{name.replace('-grpc', '')}.port{'.grpc' if name.endswith('grpc') else ''}": own[name] for name in own},
    }
    launch = Launch(
        argv=[str(packages.script("weed")), "server", *(f"-{key}={value}" for key, value in options.items())],
        env=site.environment(),
        cwd=data,
    )
    service = "witness" if site.name == "witness" else "s3"
    return Planned(site.server(service, site.ports["s3"], data), launch)


def temporal(site: Site, place: TemporalPlace) -> Planned:
    """Temporal's development server with its UI and a database file."""
    data = site.data("temporal")
    port = site.ports["temporal"]
    arguments = {
        "--ip": LOCALHOST,
        "--port": port,
        "--ui-port": site.ports["temporal-ui"],
        "--db-filename": place.database_file,
        "--log-level": "warn",
    }
    repeated = [
        *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),
        # Timers and retries otherwise fire up to a second late.
        *("--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"'),
        *("--search-attribute", "DrGroup=Keyword", "--search-attribute", "DrPlan=Keyword"),
    ]
    launch = Launch(
        argv=[
            str(packages.script("temporal")),
            *("server", "start-dev"),
            *(str(part) for pair in arguments.items() for part in pair),
            *repeated,
        ],
        env=site.environment(),
        cwd=data,
    )
    return Planned(site.server("temporal", port, data).model_copy(update={"host": LOCALHOST}), launch)


def _python(site: Site, module: str, configuration: Path, data: Path) -> Launch:
    return Launch(
        argv=[sys.executable, "-m", f"lab.{module}", str(configuration)],
        env={**site.environment(), **python_environment()},
        cwd=data,
    )


def new_tsig_secret() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def dns(site: Site, place: DnsPlace, address: str) -> Planned:
    """The lab's own authoritative DNS server; every record first points at `address`."""
    data = site.data("dns")
    configuration = data / "dns.json"
    records = [[f"{name}.{place.zone}", 1, "A", address] for name in RECORDS]
    write_private(configuration, json.dumps({**place.model_dump(), "records": records}))

    return Planned(site.server("dns", place.port, data), _python(site, "dns_server", configuration, data))


def application(site: Site, postgres_dsn: str | None, redis_url: str | None) -> Planned:
    """One region's little shop application."""
    data = site.data("app")
    port = site.ports["app"]
    configuration = data / "app.json"
    settings = {"region": site.name, "host": site.host, "port": port, "postgres": postgres_dsn, "redis": redis_url}
    write_private(configuration, json.dumps(settings))
    launch = _python(site, "application", configuration, data)
    return Planned(site.server("app", port, data), launch)


def webhook(site: Site, file: Path) -> Planned:
    """The receiver of notifications."""
    data = site.data("webhook")
    port = site.ports["webhook"]
    configuration = data / "webhook.json"
    configuration.write_text(json.dumps({"host": site.host, "port": port, "file": str(file)}))
    launch = _python(site, "webhook", configuration, data)
    return Planned(site.server("webhook", port, data), launch)


def proxy(site: Site, links: Path, first: tuple[str, int]) -> Planned:
    """The process through which regions see each other; its address is that of its first link."""
    data = site.data("proxy")
    launch = _python(site, "proxy", links, data)
    server = site.server("proxy", first[1], data)
    server.host = first[0]
    return Planned(server, launch)


def python_process(folder: Path, name: str, host: str, module: str, settings: str) -> Planned:
    """A process of the lab's own modules; `name` is "<place>/<service>" and `settings` its JSON."""
    region, service = name.split("/")
    site = Site(folder, region, host, {})
    data = site.data(service)
    configuration = data / f"{module}.json"
    write_private(configuration, settings)
    return Planned(site.server(service, 0, data), _python(site, module, configuration, data))
