"""``drctl validate | restore | recover``: recovery points proven, restored beside the service, or in its place."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drctl.options import (
    Actor,
    Aliases,
    Approve,
    GlobalState,
    Index,
    Latest,
    OfStore,
    OutageBegan,
    Reason,
    RenamePattern,
    RenameReplacement,
    Repository,
    Timeline,
    ToLsn,
    ToName,
    ToTime,
    ToXid,
    Wait,
)
from drctl.output import ConfigFile, Confirmed, Form, GroupName, Output, confirm_group, examples, note
from drctl.session import check_point, chosen_group, load_config, operator
from drctl.starting import run_plan
from drctl.times import span
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind, DataStore, store_of
from recovery.domain.recovery_target import RecoveryTarget
from recovery.domain.redis import Way
from recovery.domain.search import SearchChoice
from recovery.domain.timelines import lsn_order
from recovery.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from recovery.config import Config

PointOption = Annotated[
    str | None, typer.Option("--point", metavar="ID", help="This recovery point; else the newest validated one.")
]

app = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "drctl validate", "drctl validate 20261122T101500Z-physical-1a2b3c4d", "drctl validate --group shop --since 7d"
    )
)
def validate(
    point: Annotated[
        str | None, typer.Argument(metavar="[POINT]", help="Only this recovery point.", show_default=False)
    ] = None,
    since: Annotated[
        timedelta | None,
        typer.Option("--since", parser=span, metavar="SPAN", help="All points of this last while; else of 24h."),
    ] = None,
    group: GroupName = None,
    wait: Wait = True,
    reason: Reason = "asked for",
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Restore recovery points into a scratch server, check them, and store the signed verdicts.

    Exit code 1 when any of them is not VALID.
    """
    if point is not None and since is not None:
        raise BadInput("expected a recovery point or --since, and not both")
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    request = PlanRequest(group=name, point_id=point, since=since, reason=reason, requested_by=operator(actor))
    run_plan(
        loaded, "BackupValidation", request, wait=wait, output=output, prepare=_known_point(loaded, name, point, output)
    )


_CLUSTERS = (None, DataStore.POSTGRES)
_OPTIONS: Mapping[str, tuple[DataStore, ...]] = {
    "--target-database": (DataStore.POSTGRES,),
    "--target-port": (DataStore.POSTGRES,),
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
        "drctl restore --store redis --target-directory /var/lib/redis --append-only",
        "drctl restore --store search --index 'orders-*' --rename-pattern '^' --rename-replacement back-",
    )
)
def restore(
    group: GroupName = None,
    point: PointOption = None,
    store: OfStore = None,
    to_region: Annotated[
        str | None, typer.Option("--to-region", help="The region whose worker restores; else the owner's.")
    ] = None,
    target_directory: Annotated[
        Path | None,
        typer.Option(
            "--target-directory", help="Physical: an empty folder for the new server. Redis: a stopped server's folder."
        ),
    ] = None,
    target_port: Annotated[
        int | None, typer.Option("--target-port", min=1, max=65535, help="Physical: the new server's port.")
    ] = None,
    target_database: Annotated[
        str | None, typer.Option("--target-database", help="Logical: the name of the new database.")
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", help="JetStream: only this stream; may be given several times.")
    ] = None,
    target_stream: Annotated[
        str | None, typer.Option("--target-stream", help="JetStream: the stream's name, which it must keep.")
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=0, max=20, help="JetStream, search: so many; else as many as at the source."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="JetStream, search: delete what exists under these names. Redis: delete what the server holds. "
            "Undoing brings nothing back.",
        ),
    ] = False,
    way: Annotated[
        Way | None,
        typer.Option(
            "--way",
            help="Redis: let the server replicate from a scratch server, or give it key by key; else what fits.",
        ),
    ] = None,
    append_only: Annotated[
        bool, typer.Option("--append-only", help="Redis: the server in --target-directory has an append-only file.")
    ] = False,
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
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Restore a validated recovery point into an empty target, beside the running service.

    It moves no clients and owns no group; a target that is not empty is refused. Streams, dumps of Redis and indices
    are put into the region's own NATS, Redis or search engine, where clients see them at once; aliases move at the end.
    Without --point the newest validated point of the kind that fits the target is taken, or the one that leads to the
    moment that was asked for.
    """
    moment = _target(to_time, to_lsn, to_xid, to_name, latest, timeline)
    _demand_one_target(target_directory, target_port, target_database, beyond=moment is not None)
    of = _of_store(store, point)
    _demand_fitting(
        of,
        {
            "--target-database": target_database,
            "--target-port": target_port,
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
    request = PlanRequest(
        group=name,
        region=to_region,
        point_id=point,
        kind=_kind(target_database, target_directory, target_port) if point is None and of in _CLUSTERS else None,
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
        target=moment,
        reason=reason,
        requested_by=operator(actor),
    )
    run_plan(loaded, "Restore", request, wait=wait, output=output, prepare=_known_point(loaded, name, point, output))


@app.command(
    epilog=examples(
        "drctl recover --group shop --reason 'region-a burnt down' --outage-began 12m",
        "drctl recover --to region-b --latest --approve --yes",
        "drctl recover --to-time 2026-11-22T10:14:30Z --reason 'orders were deleted at 10:15'",
        "drctl recover --point 20261122T101500Z-physical-1a2b3c4d --outage-began 2026-11-22T10:15:00Z",
    )
)
def recover(
    group: GroupName = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The region that takes over; else the one of highest priority.")
    ] = None,
    point: PointOption = None,
    to_time: ToTime = None,
    to_lsn: ToLsn = None,
    to_xid: ToXid = None,
    to_name: ToName = None,
    latest: Latest = False,
    timeline: Timeline = None,
    reason: Reason = "asked for",
    approve: Approve = False,
    outage_began: OutageBegan = None,
    yes: Confirmed = False,
    wait: Wait = True,
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Recover a group in another region from its newest validated recovery point, because its own region is lost.

    What was committed after that point is lost; where the group's WAL is archived, a later moment may be chosen. The
    plan restores, verifies, takes ownership, switches DNS and lets clients in; until clients are let in, a failure or
    an abort undoes everything.
    """
    target = _target(to_time, to_lsn, to_xid, to_name, latest, timeline)
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    request = PlanRequest(
        group=name,
        region=to,
        point_id=point,
        reason=reason,
        requested_by=operator(actor),
        approve=approve,
        outage_began_at=outage_began,
        target=target,
    )
    where = f"in {to}" if to is not None else "in another region"
    until = "a recovery point" if target is None else f"a recovery point and archived WAL, to {target}"
    confirm_group(
        name,
        f"This recovers {name} {where} from {until}: what was committed after it is lost.",
        yes=yes,
        output=output,
    )
    run_plan(
        loaded, "FullRecovery", request, wait=wait, output=output, prepare=_known_point(loaded, name, point, output)
    )


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


def _target(
    time: datetime | None, lsn: str | None, xid: int | None, name: str | None, latest: bool, timeline: int | None
) -> RecoveryTarget | None:
    """The moment that was asked for; None: the recovery point's own end. Raises BadInput."""
    given = [time is not None, lsn is not None, xid is not None, name is not None, latest]
    if not any(given):
        if timeline is not None:
            raise BadInput("--timeline goes with --to-time, --to-lsn, --to-xid, --to-name or --latest")
        return None
    if sum(given) > 1:
        raise BadInput("expected one of --to-time, --to-lsn, --to-xid, --to-name and --latest, and not several")
    if lsn is not None:
        lsn_order(lsn)
    return RecoveryTarget(time=time, lsn=lsn, xid=xid, name=name, latest=latest, timeline=timeline)


def _of_store(store: DataStore | None, point: str | None) -> DataStore | None:
    """Raises BadInput: the point is of another one."""
    if point is None:
        return store
    its = store_of(point)
    if store not in (None, its):
        raise BadInput(f"recovery point {point} is of {its}, and not of {store}: leave out --store")
    return its


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


def _kind(database: str | None, directory: Path | None, port: int | None) -> BackupKind | None:
    """The kind of recovery point that such a target can take."""
    if database is not None:
        return BackupKind.LOGICAL
    return BackupKind.PHYSICAL if directory is not None or port is not None else None


def _known_point(config: Config, group: str, point: str | None, output: Output) -> Callable[[], Awaitable[None]] | None:
    """Looks a named point up first: a misspelt one is refused before a plan begins."""
    if point is None:
        return None

    async def look() -> None:
        unknown = await check_point(config, group, point)
        if unknown is not None:
            note(f"the recovery point could not be looked up from here, the plan will: {unknown}", output)

    return look
