"""``drctl guard``: the small process beside the stores of a region, which alone makes a primary."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drctl.output import ConfigFile, Form, Output, examples, messages, print_json
from drctl.session import load_config, run

if TYPE_CHECKING:
    from recovery.config import Config

app = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "drctl guard --region us-east-1", "drctl guard --region eu-west-1 --metrics-port 9188 --keep-primary"
    )
)
def guard(
    region: Annotated[str, typer.Option("--region", help="The region of this host's stores.")],
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=0,
            max=65535,
            help="Port of a Prometheus endpoint, else there is none; 0 chooses a free one.",
        ),
    ] = None,
    keep_primary: Annotated[
        bool,
        typer.Option(
            "--keep-primary/--demote",
            help="When this process is stopped: leave a primary to the next guard, which must come within the lease, "
            "or end it in order.",
        ),
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Run the guard of a region beside its stores, until SIGTERM or Ctrl-C.

    It holds the region's lease at the witness. While it does, the groups that the region owns have their primary here;
    when the lease ends, they are demoted, by this process or by its companion. Give it to a service manager that starts
    it at boot and again when it ends; it waits for nothing, and nothing has to wait for it.
    """
    loaded = load_config(config)
    form: Literal["console", "json"] = "console" if messages().is_terminal and output is Output.TEXT else "json"
    run(_guard(loaded, region, metrics_port, not keep_primary, output), log_form=form, log_level=log_level)


async def _guard(config: Config, region: str, metrics_port: int | None, demote: bool, output: Output) -> None:
    from workers.guard import GuardProcess, run_guard

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def ready(sentence: str) -> None:
        if output is Output.JSON:
            print_json({"ready": True, "message": sentence, "region": region})
        else:
            typer.echo(sentence)
        sys.stdout.flush()  # whoever started this process waits for that sentence, also through a pipe

    await run_guard(GuardProcess(config, region, metrics_port, demote), ready=ready, stop=stop)
