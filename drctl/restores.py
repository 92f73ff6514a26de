"""``drctl restore``: a recovery point put into an empty target, beside the running service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import typer

from drctl.from_folder import restore_folder
from drctl.moments import Latest, Timeline, ToLsn, ToName, ToTime, ToXid, target_of
from drctl.options import Actor, OfStore, PointOption, Reason, Wait
from drctl.output import ConfigFile, Confirmed, Form, GroupName, Output, confirm_group, examples
from drctl.restore_options import (
    Aliases,
    AppendOnly,
    FromFolder,
    GlobalState,
    Index,
    RenamePattern,
    RenameReplacement,
    Replace,
    Replicas,
    Repository,
    Streams,
    TargetDatabase,
    TargetDirectory,
    TargetInstance,
    TargetPort,
    TargetStream,
    ToRegion,
    WayOption,
)
from drctl.session import chosen_group, load_config, operator
from drctl.starting import known_point, run_plan
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind, DataStore, store_of
from recovery.domain.search import SearchChoice
from recovery.domain.words import listed, plural
from recovery.errors import BadInput

app = typer.Typer(rich_markup_mode="rich")

INSTANCE = re.compile(r"(?=.{1,63}\Z)[a-z][a-z0-9]*(-[a-z0-9]+)*", re.IGNORECASE)
_CLUSTERS = (None, DataStore.POSTGRES)
_OPTIONS: Mapping[str, tuple[DataStore, ...]] = {
    "--target-database": (DataStore.POSTGRES,),
    "--target-port": (DataStore.POSTGRES,),
    "--target-instance": (DataStore.POSTGRES,),
    "--target-directory": (DataStore.POSTGRES, DataStore.REDIS),
    "--to-time (or another moment)": (DataStore.POSTGRES,),
    "--stream": (DataStore.NATS,),
    "--target-stream": (DataStore.NATS,),
    "--replicas": (DataStore.NATS, DataStore.SEARCH),
    "--replace": (DataStore.NATS, DataStore.REDIS, DataStore.SEARCH),
    "--way": (DataStore.REDIS,),
    "--append-only": (DataStore.REDIS,),
    "--index": (DataStore.SEARCH,),
    "--rename-pattern": (DataStore.SEARCH,),
    "--rename-replacement": (DataStore.SEARCH,),
    "--no-aliases": (DataStore.SEARCH,),
    "--global-state": (DataStore.SEARCH,),
    "--repository": (DataStore.SEARCH,),
}
"""Whose recovery points an option of ``drctl restore`` is for."""


@app.command(
    epilog=examples(
        "drctl restore --to-region region-b",
        "drctl restore --point 20261122T101500Z-logical-1a2b3c4d --target-database shop_copy",
        "drctl restore --group shop --target-directory /var/lib/postgresql/copy --target-port 5440",
        "drctl restore --store nats --stream orders --replace",
        "drctl restore --from-folder /backup/orders --to-region region-b",
        "drctl restore --store redis --target-directory /var/lib/redis --append-only",
        "drctl restore --store search --index 'orders-*' --rename-pattern '^' --rename-replacement back-",
    )
)
def restore(
    group: GroupName = None,
    point: PointOption = None,
    store: OfStore = None,
    to_region: ToRegion = None,
    target_directory: TargetDirectory = None,
    target_port: TargetPort = None,
    target_database: TargetDatabase = None,
    target_instance: TargetInstance = None,
    from_folder: FromFolder = None,
    stream: Streams = None,
    target_stream: TargetStream = None,
    replicas: Replicas = None,
    replace: Replace = False,
    way: WayOption = None,
    append_only: AppendOnly = False,
    index: Index = None,
    rename_pattern: RenamePattern = None,
    rename_replacement: RenameReplacement = None,
    aliases: Aliases = True,
    global_state: GlobalState = False,
    repository: Repository = None,
    to_time: ToTime = None,
    to_lsn: ToLsn = None,
    to_xid: ToXid = None,
    to_name: ToName = None,
    latest: Latest = False,
    timeline: Timeline = None,
    wait: Wait = True,
    reason: Reason = "asked for",
    actor: Actor = None,
    yes: Confirmed = False,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Restore a validated recovery point into an empty target, beside the running service.

    It moves no clients and owns no group; a target that is not empty is refused. Streams, dumps of Redis and indices
    are put into the region's own NATS, Redis or search engine, where clients see them at once; aliases move at the end.
    Without --point the newest validated point of the kind that fits the target is taken, or the one that leads to the
    moment that was asked for.

    With --from-folder streams come from files of the nats command on this machine instead of a recovery point: at once,
    without Temporal and a run's report, into the NATS of --to-region.
    """
    moment = target_of(to_time, to_lsn, to_xid, to_name, latest, timeline)
    _demand_one_target(target_directory, target_port, target_database, beyond=moment is not None)
    _demand_instance_alone(target_instance, target_directory, target_port, target_database)
    of = _of_store(store, point) if from_folder is None else _of_folder(store, point, wait=wait)
    _demand_fitting(
        of,
        {
            "--target-database": target_database,
            "--target-port": target_port,
            "--target-instance": target_instance,
            "--target-directory": target_directory,
            "--to-time (or another moment)": moment,
            "--stream": stream,
            "--target-stream": target_stream,
            "--replicas": replicas,
            "--replace": replace,
            "--way": way,
            "--append-only": append_only,
            "--index": index,
            "--rename-pattern": rename_pattern,
            "--rename-replacement": rename_replacement,
            "--no-aliases": not aliases,
            "--global-state": global_state,
            "--repository": repository,
        },
    )
    if replicas == 0 and of is not DataStore.SEARCH:
        raise BadInput("--replicas 0 is for --store search: a stream has one at least")
    _demand_one_redis(of, target_directory, running=bool(way or replace), append_only=append_only)
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    if from_folder is not None:
        restore_folder(
            loaded,
            name,
            from_folder,
            streams=stream or [],
            region=to_region,
            target_stream=target_stream,
            replicas=replicas,
            replace=replace,
            yes=yes,
            output=output,
        )
        return
    request = PlanRequest(
        group=name,
        region=to_region,
        point_id=point,
        kind=_kind(target_database, target_directory, target_port, target_instance)
        if point is None and of in _CLUSTERS
        else None,
        store=store,
        streams=tuple(stream) if stream else None,
        target_stream=target_stream,
        replicas=replicas,
        replace=replace,
        way=way,
        append_only=append_only,
        search=_choice(index, rename_pattern, rename_replacement, aliases, global_state, repository),
        target_directory=str(target_directory) if target_directory is not None else None,
        target_port=target_port,
        target_database=target_database,
        target_instance=target_instance,
        target=moment,
        reason=reason,
        requested_by=operator(actor),
    )
    if replace:
        confirm_group(name, _deletes(of, stream, index, to_region), yes=yes, output=output)
    run_plan(loaded, "Restore", request, wait=wait, output=output, prepare=known_point(loaded, name, point, output))


def _deletes(store: DataStore | None, streams: list[str] | None, indices: list[str] | None, region: str | None) -> str:
    """What ``--replace`` costs, as a question that is answered with the group's name."""
    where = region or "the region that owns the group"
    match store:
        case DataStore.NATS:
            lost = f"the {plural(len(streams), 'stream')} {listed(streams)}" if streams else "each stream of the point"
        case DataStore.SEARCH:
            lost = f"what {listed(indices)} names" if indices else "each index of the point"
        case _:
            lost = "every key of its Redis"
    return f"This deletes in {where} {lost}, as it is now, for good. Undoing the restore brings nothing back."


def _demand_one_target(folder: Path | None, port: int | None, database: str | None, *, beyond: bool) -> None:
    """``beyond``: a moment after the point was asked for. Raises BadInput."""
    if beyond and database is not None:
        raise BadInput("a dump has no WAL: leave out --target-database, and name a --target-directory")
    if database is not None and (folder is not None or port is not None):
        raise BadInput(
            "expected --target-database (a logical recovery point) or --target-directory and --target-port "
            "(a physical one), and not both"
        )
    if folder is not None and not folder.is_absolute():
        raise BadInput(f"--target-directory: expected an absolute path on the worker's machine, got {folder}")


def _demand_instance_alone(instance: str | None, *others: object) -> None:
    """Raises BadInput."""
    if instance is not None and any(other is not None for other in others):
        raise BadInput("--target-instance names what RDS makes from a snapshot: leave out the other targets")
    if instance is not None and not INSTANCE.fullmatch(instance):
        raise BadInput(
            f"--target-instance: expected a name that RDS takes (1 to 63 letters, digits and single hyphens, a letter "
            f"first), got {instance}"
        )


def _of_store(store: DataStore | None, point: str | None) -> DataStore | None:
    """Raises BadInput: the point is of another one."""
    if point is None:
        return store
    its = store_of(point)
    if store not in (None, its):
        raise BadInput(f"recovery point {point} is of {its}, and not of {store}: leave out --store")
    return its


def _of_folder(store: DataStore | None, point: str | None, *, wait: bool) -> DataStore:
    """Raises BadInput: what else was said is of a recovery point, or of a run."""
    if point is not None:
        raise BadInput("--from-folder takes the place of a recovery point: leave out --point")
    if store not in (None, DataStore.NATS):
        raise BadInput(f"--from-folder is for JetStream: leave out --store {store}")
    if not wait:
        raise BadInput("--from-folder restores from this machine, which has to stay: leave out --no-wait")
    return DataStore.NATS


def _demand_fitting(store: DataStore | None, given: Mapping[str, object]) -> None:
    """``given``: options and their values. Raises BadInput: one is of another store than the one that is restored."""
    for option, value in given.items():
        owners = _OPTIONS[option]
        if value and (store or DataStore.POSTGRES) not in owners:
            raise BadInput(f"{option} goes with --store {' or '.join(owners)}, or a point of it")


def _demand_one_redis(store: DataStore | None, folder: Path | None, *, running: bool, append_only: bool) -> None:
    """``running``: an option for a running server was given. Raises BadInput."""
    if append_only and folder is None:
        raise BadInput("--append-only says how a stopped server starts: name its folder with --target-directory")
    if store is DataStore.REDIS and folder is not None and running:
        raise BadInput("--way and --replace are for a running server: leave them out, or --target-directory")


def _choice(
    indices: list[str] | None,
    pattern: str | None,
    replacement: str | None,
    aliases: bool,
    global_state: bool,
    repository: str | None,
) -> SearchChoice | None:
    """None: everything, as it was. Raises BadInput."""
    if (pattern is None) != (replacement is None):
        raise BadInput("expected --rename-pattern and --rename-replacement together")
    chosen = SearchChoice(
        indices=tuple(indices or ("*",)),
        rename_pattern=pattern,
        rename_replacement=replacement,
        aliases=aliases,
        global_state=global_state,
        repository=repository,
    )
    return None if chosen == SearchChoice() else chosen


def _kind(database: str | None, directory: Path | None, port: int | None, instance: str | None) -> BackupKind | None:
    """The kind of recovery point that such a target can take."""
    if database is not None:
        return BackupKind.LOGICAL
    if instance is not None:
        return BackupKind.SNAPSHOT
    return BackupKind.PHYSICAL if directory is not None or port is not None else None
