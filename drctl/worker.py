"""``drctl worker`` and ``drctl up``: the processes that do the work."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drctl.output import ConfigFile, Form, Output, examples, messages, print_json
from drctl.session import load_config, run, session
from recovery.errors import Unreachable

if TYPE_CHECKING:
    from pathlib import Path

    from recovery.config import Config
    from workers.embedded import Embedded
    from workers.schedules import Applied

app = typer.Typer(rich_markup_mode="rich")

ENDING = 2.0
"""How long, in seconds, a failed worker waits to learn that its own Temporal server has ended."""

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=0,
        max=65535,
        help="Port of the Prometheus endpoint; else monitoring.metrics.port; 0 chooses a free one.",
    ),
]
LogLevel = Annotated[str, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")]


@app.command(
    epilog=examples(
        "drctl worker --region us-east-1",
        "drctl worker --region us-east-1 --no-control",
        "drctl worker",
    )
)
def worker(
    region: Annotated[
        list[str] | None, typer.Option("--region", help="Take the steps of this region; may be repeated. Else of none.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Take workflows and steps that belong to no region.")
    ] = True,
    metrics_port: MetricsPort = None,
    log_level: LogLevel = "INFO",
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C. Run as many as you want, on as many machines.

    A region that falls silent swallows for some seconds what its worker has asked for. Where a failover has to be
    quick, run workers of regions with --no-control, and two or more without a region beside Temporal.

    Validations are taken only where the configuration names a key that opens recovery points.
    """
    loaded = load_config(config)
    work = _work(loaded, region or [], metrics_port, output, control=control)
    run(work, log_form=log_form(output), log_level=log_level)


@app.command(
    epilog=examples("drctl up", "drctl up --config recovery.yaml --port 7300 --ui-port 8300", "drctl up --no-schedules")
)
def up(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Temporal's port; 0 chooses a free one.")
    ] = 7233,
    ui_port: Annotated[
        int, typer.Option("--ui-port", min=0, max=65535, help="The Temporal UI's port; 0 chooses a free one.")
    ] = 8233,
    metrics_port: MetricsPort = None,
    apply: Annotated[bool, typer.Option("--schedules/--no-schedules", help="Apply the configured schedules.")] = True,
    log_level: LogLevel = "WARNING",
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Run everything on this machine until Ctrl-C: Temporal (state in a file), a worker of all regions, schedules.

    With temporal.address in the configuration no server is started: that one is used. What was running when this is
    stopped goes on at the next drctl up.
    """
    loaded = load_config(config)
    run(_up(loaded, port, ui_port, metrics_port, apply, output), log_form=log_form(output), log_level=log_level)


async def _up(config: Config, port: int, ui_port: int, metrics_port: int | None, apply: bool, output: Output) -> None:
    from workers.embedded import embedded_temporal, state_file_of
    from workers.worker import stop_on_signals

    stop = stop_on_signals()
    if config.temporal.address is not None:
        await _serve(config, metrics_port, apply, output, stop)
        return
    state_file = state_file_of(config)
    namespace = config.temporal.namespace
    async with embedded_temporal(state_file, port=port, ui_port=ui_port, namespace=namespace) as server:
        _say(output, f"Temporal runs at {server.address}, its state is in {state_file}")
        _say(output, f"Temporal UI: {server.ui_address}")
        watching = asyncio.create_task(_stop_with(server, stop))
        try:
            await _serve(config, metrics_port, apply, output, stop)
        except Exception as error:
            # A worker may notice the server's end before its watcher does: the cause is told, not the symptom.
            await asyncio.wait({watching}, timeout=ENDING)
            if server.process.returncode is None:
                raise
            raise _ended(server, state_file) from error
        finally:
            watching.cancel()
        if server.process.returncode is not None:
            raise _ended(server, state_file)


def _ended(server: Embedded, state_file: Path) -> Unreachable:
    return Unreachable(
        f"the embedded Temporal server has ended (exit code {server.process.returncode}): its last words are "
        f"in {state_file.with_suffix('.log')}. drctl up starts it again, and every run goes on"
    )


async def _stop_with(server: Embedded, stop: asyncio.Event) -> None:
    await server.process.wait()
    stop.set()


async def _serve(config: Config, metrics_port: int | None, apply: bool, output: Output, stop: asyncio.Event) -> None:
    if apply:
        async with session(config) as ours:
            from workers.schedules import apply_schedules

            _say(output, _applied(await apply_schedules(ours.client, config)))
    await _work(config, list(config.regions), metrics_port, output, stop)


async def _work(
    config: Config,
    regions: list[str],
    metrics_port: int | None,
    output: Output,
    stop: asyncio.Event | None = None,
    *,
    control: bool = True,
) -> None:
    from workers.client import address_of
    from workers.worker import WorkerPlan, run_worker

    def ready(sentence: str) -> None:
        if output is Output.JSON:
            print_json({"ready": True, "message": sentence, "temporal": address_of(config), "regions": regions})
        else:
            _say(output, sentence)
        sys.stdout.flush()  # whoever started this process waits for that sentence, also through a pipe

    metrics = config.monitoring.metrics
    plan = WorkerPlan(
        config=config,
        regions=regions,
        metrics_host=metrics.bind,
        metrics_port=metrics.port if metrics_port is None else metrics_port,
        address=address_of(config),
        control=control,
    )
    await run_worker(plan, ready=ready, stop=stop)


def _applied(applied: Applied) -> str:
    counts = {
        "created": applied.created,
        "updated": applied.updated,
        "deleted": applied.deleted,
        "unchanged": applied.unchanged,
    }
    said = ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names)
    return f"schedules: {said or 'none configured'}"


def _say(output: Output, sentence: str) -> None:
    if output is Output.TEXT:
        typer.echo(sentence)
        sys.stdout.flush()


def log_form(output: Output) -> Literal["console", "json"]:
    """Lines for a person at a terminal, JSON for what collects logs."""
    return "console" if messages().is_terminal and output is Output.TEXT else "json"
