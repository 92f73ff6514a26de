"""A command of ``drctl`` as a shell would run it, and what it answered."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from drctl.main import app

MINIMAL = Path(__file__).parents[1] / "config" / "minimal.yaml"


def drctl(*arguments: str, config: Path | None = MINIMAL, **environment: str) -> Result:
    given = {"COLUMNS": "200", "TERM": "dumb", "USER": "ana", "RECOVERY_DEBUG": "0", **environment}
    if config is not None:
        given["RECOVERY_CONFIG"] = str(config)
    return CliRunner().invoke(app, list(arguments), env=given)
