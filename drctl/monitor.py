"""``drctl monitor | health | replication``: look from a vantage point, see what all of them see, see who lags."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drctl import words
from drctl.health_tables import health_view, replication_table
from drctl.options import Actor, Reason
from drctl.output import FAILED, ConfigFile, Form, GroupName, Output, examples, print_json
from drctl.session import Session, chosen_group, load_config, operator, run, session, stores
from drctl.tables import console
from drctl.worker import LogLevel, MetricsPort, log_form
from recovery.errors import BadInput, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from recovery.config import Config
    from recovery.domain.health import ReplicaLag
    from workflows.health_state import HealthView

ANSWER_SECONDS = 15.0
LIST_SECONDS = 3.0

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog=examples("drctl monitor --vantage us-west-2", "drctl monitor --vantage outside --metrics-port 0"))
def monitor(
    vantage: Annotated[str, typer.Option("--vantage", help="The vantage point, as failover.vantage_points names it.")],
    metrics_port: MetricsPort = None,
    patience: Annotated[
        float, typer.Option("--patience", min=1, help="Seconds without Temporal, after which people are told.")
    ] = 60.0,
    log_level: LogLevel = "INFO",
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Look at all groups that name the vantage point, until SIGTERM or Ctrl-C.

    For vantage points without a worker, and for the day when Temporal is down: looking goes on, and people are told.
    One vantage point alone never starts anything.
    """
    loaded = load_config(config)
    run(_monitor(loaded, vantage, metrics_port, patience, output), log_form=log_form(output), log_level=log_level)


async def _monitor(config: Config, vantage: str, metrics_port: int | None, patience: float, output: Output) -> None:
    from workers.client import address_of
    from workers.monitor import MonitorPlan, run_monitor
    from workers.worker import stop_on_signals

    def ready(sentence: str) -> None:
        if output is Output.JSON:
            print_json({"ready": True, "message": sentence, "vantage": vantage})
        else:
            typer.echo(sentence)
        sys.stdout.flush()

    metrics = config.monitoring.metrics
    plan = MonitorPlan(
        config=config,
        vantage=vantage,
        metrics_host=metrics.bind,
        metrics_port=metrics.port if metrics_port is None else metrics_port,
        address=address_of(config),
        patience=patience,
    )
    await run_monitor(plan, ready=ready, stop=stop_on_signals())


@app.command(
    epilog=examples(
        "drctl health", "drctl health --group shop -o json", "drctl health --group shop --approve --reason 'INC-1'"
    )
)
def health(
    group: GroupName = None,
    approve: Annotated[bool, typer.Option("--approve", help="Let the plan start that the monitor asks for.")] = False,
    decline: Annotated[bool, typer.Option("--decline", help="Forbid it, for as long as this outage lasts.")] = False,
    reason: Reason = "",
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Show what the vantage points see of a group: votes, streaks, policy, cooldown; or answer its monitor.

    The exit code is 1 while a group's owner is lost.
    """
    loaded = load_config(config)
    if approve or decline:
        if approve and decline:
            raise BadInput("either --approve or --decline")
        said = run(_answer(loaded, chosen_group(loaded, group), approve, operator(actor), reason))
        print_json({"answer": said}) if output is Output.JSON else typer.echo(said)
        return
    names = [chosen_group(loaded, group)] if group is not None else list(loaded.groups)
    views = run(_views(loaded, names))
    if output is Output.JSON:
        print_json([_document(name, view) for name, view in views.items()])
    else:
        out = console()
        for name, view in views.items():
            out.print(health_view(name, view, loaded.groups[name].failover.vantage_points))
    raise typer.Exit(FAILED if any(isinstance(view, str) or view.outage for view in views.values()) else 0)


async def _views(config: Config, names: list[str]) -> dict[str, HealthView | str]:
    """What each monitor answers, or why it does not."""
    async with session(config) as ours:
        answers = await asyncio.gather(*(_view(ours, name) for name in names))
    return dict(zip(names, answers, strict=True))


async def health_words(ours: Session) -> dict[str, str]:
    """One sentence for each group that has vantage points, for lists of groups."""
    names = [name for name, group in ours.config.groups.items() if group.failover.vantage_points]
    views = await asyncio.gather(*(_view(ours, name, patience=LIST_SECONDS) for name in names))
    return {name: _in_short(view) for name, view in zip(names, views, strict=True)}


def _in_short(view: HealthView | str) -> str:
    if isinstance(view, str):
        return "not known: see drctl health"
    if view.outage is not None:
        return f"LOST since {words.moment(view.outage.began_at)}: see drctl health"
    closer = f", probed more often until {words.moment(view.watched_until)}" if view.watched_until else ""
    return f"not lost{closer}"


async def _view(ours: Session, name: str, *, patience: float = ANSWER_SECONDS) -> HealthView | str:
    from temporalio.client import WorkflowQueryFailedError, WorkflowQueryRejectedError
    from temporalio.service import RPCError, RPCStatusCode

    from workflows.health_state import HealthView

    handle = ours.client.get_workflow_handle(f"health/{name}")
    try:
        async with asyncio.timeout(patience):
            found: HealthView = await handle.query("health", result_type=HealthView)
            return found
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return "no vantage point has reported yet: run drctl worker or drctl monitor at each of them"
        if error.status is RPCStatusCode.FAILED_PRECONDITION:
            return "no worker answers for its monitor: run drctl worker"
        raise
    except (TimeoutError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
        return f"its monitor does not answer ({error or 'no worker took the question in time'}): run drctl worker"


async def _answer(config: Config, name: str, approve: bool, actor: str, reason: str) -> str:
    from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
    from temporalio.exceptions import ApplicationError
    from temporalio.service import RPCError, RPCStatusCode

    from workflows.control import OperatorCommand

    async with session(config) as ours:
        handle = ours.client.get_workflow_handle(f"health/{name}")
        command = OperatorCommand(actor=actor, reason=reason)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                said: str = await handle.execute_update("approve" if approve else "decline", command, result_type=str)
                return said
        except WorkflowUpdateFailedError as failure:
            cause = failure.cause
            raise Refused(cause.message if isinstance(cause, ApplicationError) else str(cause)) from failure
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            raise Unreachable(f"no worker took the answer for {name}: run drctl worker, then look again") from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise NotFound(
                    f"the group {name} has no monitor that runs: no vantage point has reported yet"
                ) from error
            raise


def _document(name: str, view: HealthView | str) -> dict[str, Any]:
    if isinstance(view, str):
        return {"group": name, "unknown": view}
    return view.model_dump(mode="json")


@app.command(
    epilog=examples("drctl replication", "drctl replication --group shop --watch", "drctl replication -o json")
)
def replication(
    group: GroupName = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every 2 seconds until Ctrl-C.")] = False,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Show how far each replica of a group is behind: PostgreSQL, JetStream mirrors, Redis.

    The exit code is 1 when a replica is further behind than its limit allows.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    if watch:
        if output is Output.JSON:
            raise BadInput("--watch draws a table: leave out -o json")
        run(_watch_replicas(loaded, name))
        return
    owner, found = run(_replicas(loaded, name))
    if output is Output.JSON:
        print_json({"group": name, "owner": owner, "replicas": [_replica_document(replica) for replica in found]})
    else:
        console().print(replication_table(name, owner, found, datetime.now(UTC)))
    raise typer.Exit(FAILED if any(replica.is_late for replica in found) else 0)


def _replica_document(replica: ReplicaLag) -> dict[str, Any]:
    return replica.model_dump(mode="json") | {"is_late": replica.is_late}


async def _replicas(config: Config, name: str) -> tuple[str, list[ReplicaLag]]:
    from workers.replicas import replicas_of

    async with stores(config) as wiring:
        return await replicas_of(wiring, name)


async def _watch_replicas(config: Config, name: str) -> None:
    from rich.live import Live

    from workers.replicas import replicas_of

    async with stores(config) as wiring:
        owner, found = await replicas_of(wiring, name)
        with Live(replication_table(name, owner, found, datetime.now(UTC)), console=console()) as live:
            while True:
                await asyncio.sleep(2)
                owner, found = await replicas_of(wiring, name)
                live.update(replication_table(name, owner, found, datetime.now(UTC)))
