"""``drctl backup run | list | show | sets``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from drctl import words
from drctl.documents import copies_document, sets_document, survey_document
from drctl.options import Actor, OfStore, Reason, Wait
from drctl.output import ConfigFile, Form, GroupName, Output, examples, note, print_json
from drctl.session import Session, chosen_group, load_config, operator, run, stores
from drctl.starting import run_plan
from drctl.tables import PIPE_WIDTH, checks_table, console, copy_words, points_table, sets_table
from drctl.times import span
from recovery.domain.jetstream import JetStreamSource, StreamPart
from recovery.domain.managed import SnapshotSource
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind, DataStore, PostgresSource, RecoveryPoint, Source, kinds_of
from recovery.domain.recovery_set import state_of
from recovery.domain.redis import RedisSource, server_name
from recovery.domain.report import RunReport
from recovery.domain.search import SearchIndex, SearchSource
from recovery.errors import BadInput, NotFound

if TYPE_CHECKING:
    from recovery.backup.copies import Copies
    from recovery.backup.survey import Survey
    from recovery.config import Config
    from recovery.domain.copies import Copy
    from recovery.ports.recovery_points import ListedSets
    from workers.operations import Handle

VALIDATION_APPEARS_SECONDS = 10.0

app = typer.Typer(
    name="backup", no_args_is_help=True, rich_markup_mode="rich", help="Take recovery points, list and show them."
)


@app.command(
    "run",
    epilog=examples(
        "drctl backup run",
        "drctl backup run --group shop --kind logical --validate",
        "drctl backup run --store nats",
        "drctl backup run --no-wait -o json",
    ),
)
def take(
    group: GroupName = None,
    kind: Annotated[
        BackupKind | None, typer.Option("--kind", "-k", help="Only this kind; else all that are configured.")
    ] = None,
    store: OfStore = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Back up this region's server; else the one that owns the group.")
    ] = None,
    wait: Wait = True,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Search: go on in the repository of a cluster that is lost, and writes to it no more."
        ),
    ] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="Wait for the validation of what was written, too.")
    ] = False,
    reason: Reason = "asked for",
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Take recovery points now: streamed, encrypted, to every location at once.

    Each one is validated afterwards by a run of its own, which restores it for real. A second backup of the same
    kind attaches to the one that is running.
    """
    if kind is not None and store not in (None, kind.store):
        raise BadInput(f"--kind {kind} is one of {kind.store}, and not of {store}: leave out --store")
    if take_over and DataStore.SEARCH not in (store, kind.store if kind else None):
        raise BadInput("--take-over goes with --store search")
    loaded = load_config(config)
    request = PlanRequest(
        group=chosen_group(loaded, group),
        kind=kind or _only_kind(store),
        store=store,
        region=region,
        take_over=take_over,
        reason=reason,
        requested_by=operator(actor),
    )
    run_plan(
        loaded, "Backup", request, wait=wait or validate, output=output, afterwards=validations if validate else None
    )


def _only_kind(store: DataStore | None) -> BackupKind | None:
    """A store with one kind of points is backed up by its name, whether or not the schedule takes it along."""
    kinds = kinds_of(store) if store is not None else []
    return kinds[0] if len(kinds) == 1 else None


async def validations(ours: Session, report: RunReport) -> list[Handle]:
    """The runs that validate what this backup wrote: those that it started, else ones of our own."""
    return [await _validation(ours, report.group, point_id) for point_id in report.point_ids]


async def _validation(ours: Session, group: str, point_id: str) -> Handle:
    from workers.operations import find, start

    loop = asyncio.get_running_loop()
    deadline = loop.time() + VALIDATION_APPEARS_SECONDS
    while ours.config.group(group).backup.validation.enabled and loop.time() < deadline:
        try:
            return await find(ours.client, f"validate/{group}/{point_id}")
        except NotFound:
            await asyncio.sleep(0.2)
    request = PlanRequest(group=group, point_id=point_id, reason="asked for", requested_by=operator())
    handle, _ = await start(ours.client, ours.config, "BackupValidation", request)
    return handle


@app.command(
    "list",
    epilog=examples("drctl backup list", "drctl backup list --group shop --since 7d", "drctl backup list -o json"),
)
def list_points(
    group: GroupName = None,
    since: Annotated[
        timedelta | None,
        typer.Option(
            "--since", parser=span, metavar="SPAN", help="Only points of this last while, e.g. 24h; else all."
        ),
    ] = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """List recovery points, newest first, with their verdicts and what each location has of them.

    Everything is read from the locations themselves, without Temporal: which have a point whole, which are still being
    filled, and how far a bucket's own replication of its manifest is. What is there and not believed (a wrong
    signature, damaged bytes) is named below the table.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    survey, copies = run(_listed(loaded, name, None if since is None else datetime.now(UTC) - since))
    if output is Output.JSON:
        print_json(survey_document(name, survey, copies))
        return
    # In a pipe an id must stay on one line, for whoever searches for it.
    out = console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    out.print(points_table(survey.points, copies=copies, lacking=survey.lacking))
    for entry in [*survey.rejected, *survey.foreign]:
        note(f"not believed: {entry.key} at {entry.location}: {entry.reason}", output, "red")
    for location, reason in survey.unreachable.items():
        note(f"no answer from {location}: {reason}", output)


async def _listed(config: Config, name: str, since: datetime | None) -> tuple[Survey, Copies]:
    from recovery.backup.copies import copies_of

    async with stores(config) as wiring:
        snapshot = config.snapshot(name)
        survey = await (await wiring.catalogue(snapshot)).survey(name, since)
        places = config.locations_of(name)
        replicating = [location for location, place in places.items() if place.replication is not None]
        return survey, await copies_of((await wiring.locations())(snapshot), survey, list(places), replicating)


@app.command(
    epilog=examples(
        "drctl backup show 20261122T101500Z-physical-1a2b3c4d", "drctl backup show POINT --group shop -o json"
    )
)
def show(
    point: Annotated[str, typer.Argument(metavar="POINT", help="The recovery point's id.")],
    group: GroupName = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Show everything about one recovery point: source, sizes, keys, and what its validation found.

    Of each location it is looked whether all objects are there, and how far a bucket's own replication of them is.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    found, copies = run(_examined(loaded, name, point))
    if output is Output.JSON:
        print_json({**found.model_dump(mode="json"), "copies": copies_document(copies)})
        return
    out = console()
    for label, value in _facts(found, copies):
        out.print(f"[bold]{label:<18}[/] {escape(value)}", markup=True, soft_wrap=True)
    if found.verdict is not None and found.verdict.checks:
        out.print(checks_table(found.verdict.checks))


async def _examined(config: Config, name: str, point_id: str) -> tuple[RecoveryPoint, dict[str, Copy]]:
    from recovery.backup.copies import examined

    async with stores(config) as wiring:
        snapshot = config.snapshot(name)
        point = await (await wiring.catalogue(snapshot)).point(name, point_id)
        places = config.locations_of(name)
        replicating = [location for location, place in places.items() if place.replication is not None]
        return point, await examined((await wiring.locations())(snapshot), point, replicating)


@app.command(epilog=examples("drctl backup sets", "drctl backup sets --group shop -o json"))
def sets(group: GroupName = None, config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """List recovery sets, newest first: the points of a group's stores that one backup took together.

    All points of a set were read within its window; between the stores they agree only as far as that.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)

    async def work() -> tuple[ListedSets, Survey]:
        async with stores(loaded) as wiring:
            found = await wiring.catalogue(loaded.snapshot(name))
            return await found.sets(name), await found.survey(name)

    listed, survey = run(work())
    states = {found.set_id: state_of(found, survey.points) for found in listed.sets}
    if output is Output.JSON:
        print_json(sets_document(name, listed, states))
        return
    out = console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    out.print(sets_table(listed.sets, states))
    for key, reason in listed.rejected.items():
        note(f"not believed: {key} at {reason}", output, "red")
    for location, reason in listed.unreachable.items():
        note(f"no answer from {location}: {reason}", output)


def _facts(point: RecoveryPoint, copies: Mapping[str, Copy]) -> list[tuple[str, str]]:
    manifest, verdict = point.manifest, point.verdict
    said = "not yet validated"
    if verdict is not None:
        said = f"{verdict.state.value} at {words.moment(verdict.validated_at)}, read at {verdict.location}"
        said += f": {verdict.reason}" if verdict.reason else ""
    facts = [
        ("Recovery point", point.point_id),
        ("Group", manifest.group),
        ("Kind", manifest.kind.value),
        ("Verdict", said),
        ("Taken", f"{words.moment(manifest.started_at)} to {words.moment(manifest.finished_at)}"),
        *_origin(manifest.source_region, manifest.source),
        ("Size", f"{words.size(manifest.plain_bytes)}, stored as {words.size(manifest.stored_bytes)}"),
        (
            "Artefacts",
            "; ".join(f"{a.name} ({words.plural(len(a.objects), 'object')})" for a in manifest.artefacts) or "none",
        ),
        *((f"At {location}", copy_words(copy, briefly=False).strip(" ()")) for location, copy in copies.items()),
        ("Opens with", ", ".join(manifest.recipients)),
        ("Run", f"{manifest.run_id}, attempt {manifest.attempt}"),
    ]
    return facts + [("Note", text) for text in manifest.source.notes]


def _origin(region: str, source: Source) -> list[tuple[str, str]]:
    """What is particular to the point's store."""
    if isinstance(source, RedisSource):
        return _redis_facts(region, source)
    if isinstance(source, SearchSource):
        return _search_facts(region, source)
    if isinstance(source, JetStreamSource):
        place = (
            f", cluster {source.cluster}" if source.cluster else f", domain {source.domain}" if source.domain else ""
        )
        return [("Source", f"{region}, NATS {source.server_version}{place}"), *map(_stream_fact, source.streams)]
    if source.snapshot is not None:
        return _snapshot_facts(region, source, source.snapshot)
    position = f", {source.start_lsn or '?'} to {source.stop_lsn}" if source.stop_lsn else ""
    return [
        ("Source", f"{region}, PostgreSQL {source.server_version}, system {source.system_identifier}"),
        ("Position", f"timeline {source.timeline}{position}"),
        *([("Builds on", ", then ".join(source.bases))] if source.bases else []),
        *([("Streamed from", f"the standby {source.streamed_from}")] if source.streamed_from else []),
        ("Databases", ", ".join(source.databases) or "all of the cluster"),
    ]


def _snapshot_facts(region: str, source: PostgresSource, snapshot: SnapshotSource) -> list[tuple[str, str]]:
    encrypted = "encrypted" if snapshot.encrypted else "not encrypted"
    keys = {place: f", key {copy.kms_key}" if copy.kms_key else "" for place, copy in snapshot.copies.items()}
    return [
        ("Source", f"{region}, {snapshot.instance} at RDS, PostgreSQL {source.server_version}"),
        ("Instance", f"{source.system_identifier}, {snapshot.instance_class}, {snapshot.gigabytes} GiB allocated"),
        ("Snapshot", f"{snapshot.name}, {encrypted}, taken {words.moment(snapshot.taken_at)}"),
        *((f"In {place}", f"{copy.arn}{keys[place]}") for place, copy in snapshot.copies.items()),
        *((f"Not in {place}", reason) for place, reason in snapshot.lacking.items()),
    ]


def _redis_facts(region: str, source: RedisSource) -> list[tuple[str, str]]:
    keys = [
        f"{max(each.before, each.after)} in database {number}"
        if each.before == each.after
        else f"{each.before} to {each.after} in database {number}"
        for number, each in source.keys.items()
    ]
    server = server_name(source.product, source.server_version)
    return [
        ("Source", f"{region}, {server}, sent by its {source.taken_from} {source.address}"),
        ("Position", f"offset {source.offset} of replication {source.replid}"),
        ("Format", f"RDB version {source.rdb_version}; {source.checked or 'not read by redis-check-rdb'}"),
        ("Keys", ", ".join(keys) or "none"),
        *([("Functions", ", ".join(source.functions))] if source.functions else []),
    ]


def _search_facts(region: str, source: SearchSource) -> list[tuple[str, str]]:
    streams = [
        f"{name} ({words.plural(len(inside), 'index', 'indices')})" for name, inside in source.data_streams.items()
    ]
    return [
        ("Source", f"{region}, {source.server.title}, cluster {source.server.cluster} ({source.server.cluster_uuid})"),
        ("Snapshot", f"{source.snapshot} ({source.snapshot_uuid}) in repository {source.repository}"),
        ("Repository", f"{source.repository_type}: {_settings(source.repository_settings)}"),
        ("Global state", "taken along" if source.global_state else "not taken"),
        *([("Data streams", ", ".join(streams))] if streams else []),
        *(("Index", _index_words(part)) for part in source.indices),
    ]


def _settings(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(settings.items()))


def _index_words(part: SearchIndex) -> str:
    aliases = f", aliases {', '.join(sorted(part.aliases))}" if part.aliases else ""
    return f"{part.index}: {part.docs} documents, {words.plural(part.shards, 'shard')}{aliases}"


def _stream_fact(part: StreamPart) -> tuple[str, str]:
    consumers = f", consumers {', '.join(part.consumers)}" if part.consumers else ""
    return (
        "Stream",
        f"{part.stream}: {part.messages} messages, sequences {part.first_seq} to {part.last_seq}, {part.storage},"
        f" {words.plural(part.replicas, 'replica')}{consumers}; archive format {part.archive_format} of NATS"
        f" {part.server_version}",
    )
