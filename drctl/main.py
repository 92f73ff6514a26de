"""``drctl``: the operator's command line.

Each command's module is imported only when it is called, so that ``drctl --help`` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from drctl.output import (
    BUG,
    CONFIG_VARIABLE,
    INTERRUPTED,
    UNREACHABLE,
    USAGE,
    InterruptedRun,
    exit_code,
    print_error,
    wants_json,
)
from recovery import __version__
from recovery.errors import RecoveryError

SEE, PROTECT, ACT, SET_UP = "See", "Protect and recover", "Answer a run", "Set up"

# name -> (module, whether the module is a family of commands of its own, panel, one line of help)
COMMANDS: dict[str, tuple[str, bool, str, str]] = {
    "demo": ("drctl.demonstration", False, SET_UP, "Show the main job on real servers on this machine."),
    "up": ("drctl.worker", False, SET_UP, "Run everything on this machine: Temporal, worker, schedules."),
    "worker": ("drctl.worker", False, SET_UP, "Run a worker of one or more regions."),
    "guard": ("drctl.guard", False, SET_UP, "Run the guard of a region, which alone makes a primary."),
    "config": ("drctl.config", True, SET_UP, "Check, show and describe the configuration."),
    "keys": ("drctl.keys", True, SET_UP, "Make the keys that recovery points are sealed and signed with."),
    "monitor": ("drctl.monitor", False, SET_UP, "Look at groups from a vantage point, with or without Temporal."),
    "locations": ("drctl.locations", True, SET_UP, "Check the places where recovery points are kept."),
    "schedules": ("drctl.schedules", True, SET_UP, "Put the configured schedules into Temporal, and list them."),
    "lab": ("drctl.lab", True, SET_UP, "Two regions of real servers on this machine, to try recoveries on."),
    "backup": ("drctl.backup", True, PROTECT, "Take recovery points, list and show them."),
    "validate": ("drctl.recoveries", False, PROTECT, "Restore recovery points for real and store the verdicts."),
    "restore": ("drctl.restores", False, PROTECT, "Restore a recovery point into an empty target."),
    "failover": ("drctl.handovers", False, PROTECT, "Move a group to its best standby: its primary is lost."),
    "switchover": ("drctl.handovers", False, PROTECT, "Move a healthy group without losing a write."),
    "reprotect": ("drctl.handovers", False, PROTECT, "Make a returned old primary a standby again."),
    "failback": ("drctl.handovers", False, PROTECT, "Reprotect the home region and switch over to it."),
    "diverged": ("drctl.diverged", True, SEE, "List and open what returned primaries alone had."),
    "catalogue": ("drctl.catalogue", False, SEE, "List what can be recovered and how, by the stored objects alone."),
    "wal": ("drctl.wal", True, SEE, "Show what is archived of a group's WAL, and what recoveries reach."),
    "database-failover": ("drctl.database", False, PROTECT, "Replace a managed database (RDS) that is lost."),
    "recover": ("drctl.recoveries", False, PROTECT, "Recover a group in another region: its own is lost."),
    "retention": ("drctl.retention", False, PROTECT, "Remove the recovery points that are not to be kept."),
    "status": ("drctl.runs", False, SEE, "Show runs and who owns each group; watch a run."),
    "health": ("drctl.monitor", False, SEE, "Show what the vantage points see, and answer a group's monitor."),
    "replication": ("drctl.monitor", False, SEE, "Show how far each replica is behind."),
    "regions": ("drctl.regions", False, SEE, "Show who owns each group: epoch, lease, lag, health."),
    "report": ("drctl.runs", False, SEE, "Write the report of a run as HTML, JSON or text."),
    "plan": ("drctl.plans", True, SEE, "Show what plans do, step by step, with budgets."),
    "approve": ("drctl.answers", False, ACT, "Consent to the step that waits for an approval."),
    "decline": ("drctl.answers", False, ACT, "Refuse the step that waits for an approval."),
    "pause": ("drctl.answers", False, ACT, "Start no further step of a run until it is resumed."),
    "resume": ("drctl.answers", False, ACT, "End a pause, or go on after a hold."),
    "retry": ("drctl.answers", False, ACT, "Try the held step of a run again."),
    "skip": ("drctl.answers", False, ACT, "Go on without the held step of a run."),
    "accept-loss": ("drctl.answers", False, ACT, "Take a target that is behind, at the cost that the run names."),
    "ungraceful": ("drctl.answers", False, ACT, "Go on with a switchover without the old side's help."),
    "abort": ("drctl.answers", False, ACT, "End a run and undo what it did."),
    "release": ("drctl.release", False, ACT, "Free a group whose run has ended without releasing it."),
}

EPILOG = (
    "A RUN is named by its workflow id, its run id, or its group's name.\n\n"
    "Exit codes of every command: 0 done, 1 the plan failed, 2 usage or refused, 3 cannot reach, 130 interrupted.\n\n"
    "First steps: [bold]drctl keys generate[/], [bold]drctl config check[/], [bold]drctl up[/], "
    "[bold]drctl backup run[/], [bold]drctl status[/]"
)


class Commands(TyperGroup):
    """Imports a command when it is called, and turns errors into sentences and exit codes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {  # without their options: for the list of commands, and for "did you mean"
            name: TyperCommand(name=name, help=line, rich_help_panel=panel)
            for name, (_, _, panel, line) in COMMANDS.items()
        }

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, is_family, _, help_line = COMMANDS[cmd_name]
        app: typer.Typer = importlib.import_module(module).app
        group = typer.main.get_group(app)
        found: Any = group if is_family else group.commands[cmd_name]
        found.name, found.short_help = cmd_name, help_line
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of commands is drawn from the table above, without importing any of them."""
        drawn = TyperGroup(
            name=self.name,
            help=self.help,
            epilog=self.epilog,
            params=self.params,
            rich_markup_mode=self.rich_markup_mode,
            commands=dict(self.commands),
        )
        drawn.list_commands = lambda ctx: list(COMMANDS)  # type: ignore[method-assign]
        drawn.format_help(ctx, formatter)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = wants_json(arguments)
        debug = "--debug" in arguments or os.environ.get("RECOVERY_DEBUG", "0") not in ("", "0")
        configured = os.environ.get(CONFIG_VARIABLE)
        try:
            # Usage errors, too, are ours to print: a sentence, and no box that breaks it.
            ended = super().main(arguments, *rest, **{**options, "standalone_mode": False})
            raise SystemExit(ended if isinstance(ended, int) else 0)
        except Exception as error:  # noqa: BLE001  # the last line of defence: every error becomes a sentence here
            if debug:
                traceback.print_exc()
            raise SystemExit(_explained(error, as_json=as_json)) from None
        finally:
            os.environ.pop(CONFIG_VARIABLE, None)
            if configured is not None:
                os.environ[CONFIG_VARIABLE] = configured


def _explained(error: Exception, *, as_json: bool) -> int:
    """Prints the error and returns the exit code."""
    if isinstance(error, InterruptedRun):
        code, text = INTERRUPTED, str(error)
    elif isinstance(error, RecoveryError):
        code, text = exit_code(error), str(error)
    elif isinstance(error, typer.Abort):
        code, text = INTERRUPTED, "interrupted: nothing further was done"
    elif type(error).__name__ == "NoArgsIsHelpError":  # the help was shown
        return USAGE
    elif hasattr(error, "format_message"):  # a usage error of typer's
        code, text = USAGE, _mistake(error, error.format_message(), as_json=as_json)
    elif isinstance(error, ModuleNotFoundError):
        code = USAGE
        text = f"this command needs packages that are not installed ({error.name}): pip install 'recovery-plans[lab]'"
    elif type(error).__name__ == "RPCError":  # Temporal's, whose module is not imported for its name's sake
        code, text = UNREACHABLE, f"Temporal refused or did not answer: {error}"
    else:
        code = BUG
        text = f"a mistake in this program: {type(error).__name__}: {error}. See where with: drctl --debug ..."
    print_error(text, code, as_json=as_json, kind=type(error).__name__)
    return code


def _mistake(error: Any, text: str, *, as_json: bool) -> str:
    sentence = text.replace("Value error, ", "").rstrip(".")
    asked = getattr(getattr(error, "ctx", None), "command_path", "drctl")
    return f"{sentence}." if as_json else f"{sentence} (see {asked} --help)"


app = typer.Typer(
    name="drctl",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"drctl {__version__}")
    raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="The configuration, for any command.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose. Also: RECOVERY_DEBUG=1.")] = False,
) -> None:
    """Backups that are restored before they count, and recoveries that are durable plans."""
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)  # where the commands look when they are not given one


def main() -> NoReturn:
    """The entry point ``drctl``.

    The process is left without Python's own last cleaning up: threads of the Temporal SDK may still run then, call into
    an interpreter that is half gone, and abort it (about once in a hundred commands on a busy machine).
    """
    code: object = 0
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
