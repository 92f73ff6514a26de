"""How every command speaks: text for people, JSON for programs, and one exit code for each kind of end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from recovery.errors import BadInput, NotFound, RecoveryError, Refused, Unreachable, WrongKey

DONE = 0
FAILED = 1  # the plan, or what the command was to do, failed
USAGE = 2  # a mistake in the command or in the configuration, or a refusal
UNREACHABLE = 3  # Temporal, a worker or a store did not answer
BUG = 70  # EX_SOFTWARE of sysexits.h: a mistake in this program
INTERRUPTED = 130  # Ctrl-C, as shells say it

CONFIG_VARIABLE = "RECOVERY_CONFIG"
EXIT_CODES = "Exit codes: 0 done, 1 the plan failed, 2 usage or refused, 3 cannot reach, 130 interrupted."


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


class InterruptedRun(Exception):
    """Ctrl-C while something goes on elsewhere; ``str()`` says what, and how to come back to it."""


Form = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for programs.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=CONFIG_VARIABLE,
        metavar="FILE",
        help="The configuration. Else ./recovery.yaml, else /etc/recovery-plans/recovery.yaml.",
    ),
]
GroupName = Annotated[
    str | None, typer.Option("--group", "-g", help="The protection group; not needed where there is only one.")
]
Confirmed = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the group's name as a confirmation.")]


def examples(*lines: str) -> str:
    """The end of a command's help: examples, each on its own line, and the exit codes."""
    shown = "\n\n".join(f"[bold]{escape(line)}[/]" for line in lines)
    return f"Examples:\n\n{shown}\n\n[dim]{EXIT_CODES}[/]"


def exit_code(error: RecoveryError) -> int:
    if isinstance(error, Unreachable):
        return UNREACHABLE
    return USAGE if isinstance(error, BadInput | NotFound | Refused | WrongKey) else FAILED


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether JSON was asked for, known even where the command line itself is wrong."""
    following = [*arguments[1:], ""][: len(arguments)]
    return any(
        word in ("-ojson", "--output=json") or (word in ("-o", "--output") and next_word == "json")
        for word, next_word in zip(arguments, following, strict=True)
    )


def console() -> Console:
    """Standard output. Without a terminal: no colours, no wrapping, no control codes."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, soft_wrap=True, no_color=True, width=160)


def messages() -> Console:
    """Standard error, for what is not the answer itself."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_error(text: str, code: int, *, as_json: bool, kind: str = "error") -> None:
    """One sentence a line on standard error, or one JSON object on standard output."""
    if as_json:
        print_json({"error": text, "kind": kind, "exit": code})
        return
    out = messages()
    for line in text.splitlines():
        out.print(f"[red]error[/]  {escape(line)}")


def note(text: str, output: Output, style: str = "yellow") -> None:
    """A remark beside the answer; programs do not get it."""
    if output is Output.TEXT:
        messages().print(f"[{style}]note[/]   {escape(text)}")


def confirm_group(group: str, question: str, *, yes: bool, output: Output) -> None:
    """Lets a dangerous command go on only when the group's name was typed out, or with --yes.

    Raises:
        Refused: another answer, or nobody there who could answer.
    """
    if yes:
        return
    out = messages()
    if output is Output.JSON or not out.is_terminal or not typer.get_text_stream("stdin").isatty():
        raise Refused(f"{question} Nobody can be asked here: give --yes when this is meant")
    out.print(f"[bold red]{escape(question)}[/]")
    typed: str = typer.prompt(f"Type the group's name ({group}) to go on", default="", show_default=False, err=True)
    if typed.strip() != group:
        raise Refused(f"nothing was done: expected {group}, the group's name, as confirmation")
