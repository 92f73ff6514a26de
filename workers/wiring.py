"""The composition root: from a configuration to the activities of one worker."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from activities.choosing import ChoosingSteps
from activities.configuration import ConfigurationSteps
from activities.dns import DnsSteps
from activities.guarding import GuardingSteps
from activities.looking import Look
from activities.managed_fencing import ManagedFencing
from activities.managed_postgres import ManagedPostgresSteps
from activities.notifications import Notifications
from activities.ownership import Ownership
from activities.recovery_points import RecoveryPointSteps
from activities.recovery_sets import RecoverySetSteps
from activities.reports import Reports
from activities.reprotecting import ReprotectSteps
from activities.restores import RestoreSteps
from activities.routing import RoutingSteps
from activities.runs import RunSteps
from activities.services import ServiceSteps
from activities.set_restores import SetRestoreSteps
from activities.standbys import StandbySteps
from activities.validations import ValidationSteps
from recovery.adapters.apprise import AppriseNotifier, Channel
from recovery.adapters.diverged_folder import SealedFolder, diverged_beside
from recovery.adapters.guard_client import GuardClient
from recovery.adapters.guard_permission import demand_permission
from recovery.adapters.handover import PostgresHandover, place_of
from recovery.adapters.http_probe import HttpProbe
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.adapters.key_ring import KeyRing
from recovery.adapters.managed_points import ManagedPoints
from recovery.adapters.managed_probe import SqlProbe
from recovery.adapters.managed_restores import ManagedRestores
from recovery.adapters.nats.points import StreamPoints
from recovery.adapters.nats.recovery import JetStreamSnapshots
from recovery.adapters.nats.restores import StreamRestores
from recovery.adapters.patroni import PatroniPromotion
from recovery.adapters.pgbouncer import PgBouncerRouting
from recovery.adapters.postgres import LocalPostgres
from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.standbys import LocalStandbys
from recovery.adapters.postgres_chains import PostgresChains
from recovery.adapters.postgres_points import PostgresPoints
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.adapters.redis.points import RedisPoints
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.restores import RedisRestores
from recovery.adapters.report_store import ObjectReportStore
from recovery.adapters.restores import PostgresRestores
from recovery.adapters.restores_by_store import RestoresByStore
from recovery.adapters.search.points import SearchPoints
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.adapters.search.restores import SearchRestores
from recovery.adapters.secrets import Secrets
from recovery.adapters.unguarded import Unguarded
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.witness import WitnessStore
from recovery.backup.catalogue import Catalogue
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.signing import Signer, Verifier
from recovery.backup.upload import WriteBudget
from recovery.config import Config
from recovery.config.locations import Store
from recovery.domain.group import GroupSnapshot, PostgresAt
from recovery.domain.recovery_point import BackupKind, DataStore
from recovery.domain.secret import SecretRef
from recovery.errors import BadInput, NotFound
from recovery.ports.measurements import Measurements
from recovery.ports.notify import Severity
from recovery.ports.object_store import ObjectStore
from recovery.ports.postgres import PostgresLogin, PostgresRecovery
from recovery.ports.promotion import PostgresPromotion
from recovery.ports.recovery_points import KeptElsewhere, StorePoints
from recovery.ports.standby import DivergenceSink, PostgresStandbys
from workers.databases import ConfiguredDatabases
from workers.jetstream import nats_server
from workers.object_stores import object_store
from workers.redis import redis_server, write_permit
from workers.registry import activities_of
from workers.routing import ConfiguredClusters, ConfiguredPoolers
from workers.search import scratch_engine, search_engine
from workers.zones import ConfiguredZones

MESSAGE_BUDGET = timedelta(seconds=25)
"""For one message with all its attempts: less than a step's attempt, so that a message is not sent again by it."""

log = structlog.get_logger("recovery.workers")


@dataclass
class Wiring:
    """Adapters of one process, built from its configuration; closed with the process."""

    config: Config
    secrets: Secrets
    measurements: Measurements
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)
    _stores: dict[str, ObjectStore] = field(default_factory=dict)
    _sealer: Sealer | None = None  # of diverged WAL
    _guards: GuardClient | None = None
    _databases: ConfiguredDatabases | None = None

    async def __aenter__(self) -> Wiring:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()

    # Stores.

    async def witness(self) -> WitnessStore:
        return WitnessStore(await self._store("witness", self.config.witness))

    async def reports(self) -> ObjectReportStore:
        place = self.config.reports or self.config.witness
        return ObjectReportStore(await self._store("reports" if self.config.reports else "witness", place))

    async def locations(self) -> Callable[[GroupSnapshot], list[ObjectStore]]:
        stores = {name: await self._store(name, place) for name, place in self.config.locations.items()}
        return lambda group: [stores[name] for name in group.locations]

    async def location(self, name: str) -> ObjectStore:
        """One location. Raises NotFound with the known ones, or where a secret of it is not on this machine."""
        return await self._store(name, self.config.location(name))

    async def _store(self, name: str, place: Store) -> ObjectStore:
        if name not in self._stores:
            self._stores[name] = store = await object_store(name, place, self.secrets)
            self._open.push_async_callback(store.close)
        return self._stores[name]

    # Keys.

    async def keys(self) -> KeyRing:
        keys = self.config.keys
        signing = await self._secret_if_here(keys.signing_key) if keys.signing_key else None
        found = [await self._secret_if_here(reference) for reference in keys.identities]
        identities = [identity for identity in found if identity is not None]
        sealer = await self._open.enter_async_context(Sealer(keys.recipients))
        opener = await self._open.enter_async_context(Opener(identities)) if identities else None
        return KeyRing(sealer, Verifier(keys.trusted_signers), Signer(signing) if signing else None, opener)

    async def _secret_if_here(self, reference: SecretRef) -> str | None:
        """A private key that this machine is not meant to hold is simply not there; what needs it says so."""
        try:
            return await self.secrets.resolve(reference)
        except (NotFound, BadInput) as error:
            log.info("a key is not on this machine", key=str(reference), reason=str(error))
            return None

    async def _secret(self, reference: SecretRef | None) -> str | None:
        return None if reference is None else await self.secrets.resolve(reference)

    # PostgreSQL.

    def postgres(self, group: str, region: str) -> PostgresRecovery:
        place = self.config.group(group).regions[region].postgres
        directories = {major: Path(folder) for major, folder in place.bin_directories.items()}
        return LocalPostgres(PostgresBinaries(directories or None), run_as=place.run_as)

    async def backup(self, group: str, region: str) -> PostgresLogin:
        """See ``recovery.adapters.logins.Logins``."""
        postgres = self.config.group(group).postgres
        if postgres is None or postgres.backup_user is None:
            return await self.admin(group, region)
        return await self._login(group, region, postgres.backup_user, postgres.backup_password)

    async def replication(self, group: str, region: str, standby: str) -> PostgresLogin:
        """See ``recovery.adapters.handover.ReplicationLogins``."""
        streams_as = self.config.group(group).replicates_as(standby)
        if streams_as is None:
            return await self.backup(group, region)
        return await self._login(group, region, *streams_as)

    async def admin(self, group: str, region: str) -> PostgresLogin:
        """See ``recovery.adapters.logins.Logins``."""
        postgres = self.config.group(group).postgres
        if postgres is None:
            raise BadInput(f"group {group} has no PostgreSQL: set groups.{group}.postgres in the configuration")
        return await self._login(group, region, postgres.user, postgres.password)

    def _postgres_at(self, group: str, region: str) -> PostgresAt | None:
        return self.config.snapshot(group).region(region).postgres

    async def _login(self, group: str, region: str, user: str, password: SecretRef | None) -> PostgresLogin:
        at = self._postgres_at(group, region)
        postgres = self.config.group(group).postgres
        assert at is not None and postgres is not None, "a group with PostgreSQL has it in each of its regions"
        return PostgresLogin(
            at.host,
            at.port,
            user,
            at.database,
            await self._secret(password),
            postgres.sslmode,
            postgres.ssl_root_certificate,
        )

    # Guards and standbys.

    async def guards(self) -> GuardClient:
        """All regions' guards, as seen from here; one that is not configured is not found when it is asked."""
        if self._guards is not None:
            return self._guards
        token = await self._secret_if_here(self.config.guards.token) if self.config.guards.token else None
        addresses = {name: region.guard for name, region in self.config.regions.items() if region.guard and token}
        self._guards = client = GuardClient(addresses, token or "", ca_file=self.config.guards.ca_file)
        self._open.push_async_callback(client.close)
        return client

    def promotion(self) -> Callable[[GroupSnapshot], PostgresPromotion | None]:
        """Who makes a group's PostgreSQL primary, where neither its guard nor we do."""
        clusters = ConfiguredClusters(self.config, self.secrets)
        self._open.push_async_callback(clusters.close)
        patroni = PatroniPromotion(clusters)
        return lambda group: patroni if group.managed_by == "patroni" else None

    def handover(self) -> PostgresHandover:
        return PostgresHandover(self, self.standbys, self._divergence_sink)

    def standbys(self, group: str, region: str) -> PostgresStandbys:
        place = self.config.group(group).regions[region].postgres
        directories = {major: Path(folder) for major, folder in place.bin_directories.items()}
        return LocalStandbys(PostgresBinaries(directories or None), run_as=place.run_as)

    def _divergence_sink(self, group: GroupSnapshot, region: str, effect_id: str) -> DivergenceSink:
        """Beside the data that are about to be rewound or replaced: on the same host, and on the same disk."""
        if self._sealer is None:
            self._sealer = Sealer(self.config.keys.recipients)  # its threads start when there is something to seal
            self._open.push_async_callback(self._sealer.close)
        return SealedFolder(diverged_beside(place_of(group, region).data_directory) / effect_id, self._sealer)

    # People.

    async def notifier(self) -> AppriseNotifier:
        configured = self.config.notifications
        channels = [
            Channel(
                name, await self.secrets.resolve(channel.url), frozenset(Severity(word) for word in channel.severities)
            )
            for name, channel in configured.channels.items()
        ]
        return AppriseNotifier(
            channels, timeout=configured.timeout, budget=MESSAGE_BUDGET, attempts=configured.attempts
        )

    def incident_writer(self) -> TemplateIncidentWriter:
        file = self.config.notifications.incident_template
        return TemplateIncidentWriter(Path(file) if file else None)

    # Everything together.

    async def activities(self) -> Activities:
        keys = await self.keys()
        stores = await self.locations()
        witness = await self.witness()
        reports = await self.reports()
        parts = self.parts(lambda group: Catalogue(stores(group), keys.verifier))
        points = StoredRecoveryPoints(stores, keys, parts, witness, self.scratch_folder, self.budget, self.elsewhere())
        archives = PostgresWalArchives(stores, keys, self)
        restores = self.restores(points.catalogue, keys, archives)
        probe = HttpProbe()
        self._open.push_async_callback(probe.close)
        guards, handover = await self.guards(), self.handover()
        look = Look(guards, handover, witness, probe)
        zones, databases = ConfiguredZones(self.config, self.secrets), self.databases()
        self._open.push_async_callback(zones.close)
        return Activities(
            methods=activities_of(
                ConfigurationSteps(self.config, reports),
                Ownership(witness),
                Notifications(await self.notifier(), self.incident_writer()),
                Reports(reports, self.measurements),
                RecoveryPointSteps(points, self.measurements, archives),
                ValidationSteps(points, self.measurements, archives),
                RecoverySetSteps(points),
                RestoreSteps(restores, self.measurements),
                SetRestoreSteps(restores, self.measurements, partial(demand_permission, guards)),
                DnsSteps(zones),
                ServiceSteps(probe, self.measurements),
                GuardingSteps(
                    guards, Unguarded(witness, handover, self.config.snapshot, self.promotion()), witness, restores
                ),
                RoutingSteps(PgBouncerRouting(ConfiguredPoolers(self.config, self.secrets))),
                ManagedFencing(databases),
                ManagedPostgresSteps(databases, witness, SqlProbe(self)),
                ChoosingSteps(look),
                StandbySteps(look, self.measurements),
                ReprotectSteps(look),
                RunSteps(),
            ),
            opens_points=keys.opener is not None,
            archives=archives,
        )

    # What each store has of its own: one row for each.

    def parts(self, catalogue: Callable[[GroupSnapshot], Catalogue]) -> dict[str, StorePoints]:
        """How recovery points of each store are taken and proven."""
        return {
            DataStore.POSTGRES: PostgresPoints(
                self.postgres,
                self,
                lambda group: self.config.group(group).backup.checkpoint,
                chains=PostgresChains(catalogue),
            ),
            BackupKind.SNAPSHOT: self._managed_points(),
            DataStore.NATS: StreamPoints(self.streams),
            DataStore.REDIS: RedisPoints(self.redis),
            DataStore.SEARCH: self._search_points(),
        }

    def elsewhere(self) -> dict[BackupKind, KeptElsewhere]:
        """Kinds that keep something of their recovery points outside the locations."""
        return {BackupKind.SEARCH: self._search_points(), BackupKind.SNAPSHOT: self._managed_points()}

    def _managed_points(self) -> ManagedPoints:
        databases = self.databases()
        return ManagedPoints(databases.snapshots, databases, SqlProbe(self))

    def databases(self) -> ConfiguredDatabases:
        if self._databases is None:
            self._databases = ConfiguredDatabases(self.config, self.secrets)
            self._open.push_async_callback(self._databases.close)
        return self._databases

    def _search_points(self) -> SearchPoints:
        return SearchPoints(self.search, self.scratch_search)

    def restores(
        self, catalogue: Callable[[GroupSnapshot], Catalogue], keys: KeyRing, archives: PostgresWalArchives
    ) -> RestoresByStore:
        """How recovery points of each store are put back."""
        return RestoresByStore(
            {
                DataStore.POSTGRES: PostgresRestores(catalogue, keys, self.postgres, self, self._postgres_at, archives),
                BackupKind.SNAPSHOT: ManagedRestores(
                    catalogue, self.databases().snapshots, self.databases(), SqlProbe(self)
                ),
                DataStore.NATS: StreamRestores(catalogue, keys, self.streams),
                DataStore.REDIS: RedisRestores(catalogue, keys, self.redis, self.scratch_folder),
                DataStore.SEARCH: SearchRestores(catalogue, self.search),
            }
        )

    async def streams(self, group: str, region: str) -> JetStreamSnapshots:
        """JetStream of a group in a region, as whoever may do everything there. Raises BadInput: it has none."""
        return JetStreamSnapshots(await nats_server(self.config, self.secrets, group, region))

    async def redis(self, group: str, region: str) -> RedisDumps:
        """Redis of a group in a region, written into only as its guard permits. Raises BadInput: it has none."""
        permit = write_permit(await self.guards(), self.config.snapshot(group), region)
        return RedisDumps(await redis_server(self.config, self.secrets, group, region), permit=permit)

    def search(self, group: str, region: str) -> AbstractAsyncContextManager[SearchSnapshots]:
        """The search engine of a group in a region. Raises BadInput, once entered: it has none."""
        return search_engine(self.config, self.secrets, group, region)

    def scratch_search(self, group: str) -> AbstractAsyncContextManager[SearchSnapshots | None]:
        """Where the points of a group's search engine are proven, where such a cluster is configured."""
        return scratch_engine(self.config, self.secrets, group)

    async def catalogue(self, group: GroupSnapshot) -> Catalogue:
        """For reading only: what the command line lists."""
        return Catalogue((await self.locations())(group), Verifier(self.config.keys.trusted_signers))

    def budget(self, group: str) -> WriteBudget:
        backup = self.config.group(group).backup
        return WriteBudget(
            chunk_bytes=backup.chunk_size, uploads=backup.parallel_uploads, compression_level=backup.compression_level
        )

    def scratch_folder(self, group: str) -> Path:
        configured = self.config.group(group).backup.validation.scratch_folder
        return Path(configured) if configured else Path(tempfile.gettempdir()) / "recovery-scratch"


@dataclass(frozen=True)
class Activities:
    """Bound activity methods. ``opens_points``: whether this worker may take validations."""

    methods: Sequence[Callable[..., Any]]
    opens_points: bool
    archives: PostgresWalArchives
