"""Whether ``drctl`` takes a command line, without doing what it says."""

from __future__ import annotations

from collections.abc import Sequence

from typer.main import get_command

from drctl.main import app


def parse(arguments: Sequence[str]) -> None:
    """Raises click's UsageError for an option or a command that does not exist, and for what is missing."""
    command = get_command(app)
    context = command.make_context("drctl", list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, f"{' '.join(arguments)}: no such command"
        context = command.make_context(name, rest, parent=context)
