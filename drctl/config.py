"""``drctl config check | show | alerts | schema``: the configuration, before anything depends on it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from drctl.config_reference import markdown
from drctl.output import USAGE, Form, Output, console, examples, messages, note, print_error, print_json
from recovery.config import Config, ConfigurationInvalid
from recovery.config.mistakes import suggestion
from recovery.domain.words import plural
from recovery.errors import BadInput, NotFound
from recovery.telemetry.alert_rules import rule_group, without_rule
from workflows.plans import PLANS

app = typer.Typer(
    name="config",
    no_args_is_help=True,
    help="Check, show and describe the configuration.",
    rich_markup_mode="rich",
)


class SchemaOutput(StrEnum):
    JSON = "json"
    TEXT = "text"
    MARKDOWN = "markdown"


PLACES = (Path("recovery.yaml"), Path("/etc/recovery-plans/recovery.yaml"))

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        envvar="RECOVERY_CONFIG",
        help="The configuration. Else ./recovery.yaml, else /etc/recovery-plans/recovery.yaml.",
        show_default=False,
    ),
]


def find_config(given: Path | None) -> Path:
    """The file that was named, else the first usual place that exists, else the first one, for the error to name."""
    if given is not None:
        return given
    return next((place for place in PLACES if place.exists()), PLACES[0])


@app.command(
    epilog=examples(
        "drctl config check", "drctl config check staging.yaml --output json", "drctl config check --strict   (in CI)"
    )
)
def check(
    file: File = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 for warnings, too.")] = False,
    output: Form = Output.TEXT,
) -> None:
    """Read the configuration and name every mistake with its line; warn of what is allowed and yet unwise.

    Nothing is contacted and no secret is resolved. Exit code 0: usable; 2: mistakes.
    """
    file = find_config(file)
    config = _load(file, output)
    warnings = [*config.warnings(_critical_paths), *_unknown_budgets(config)]
    later = config.set_for_later()
    if output is Output.JSON:
        print_json(
            {"file": str(file), "valid": True, "groups": list(config.groups), "warnings": warnings, "not_yet": later}
        )
    else:
        out = console()
        for warning in warnings:
            out.print(f"[yellow]warning[/]  {escape(warning)}")
        if later:
            out.print(f"[cyan]not yet[/]  set, and not acted on by this version: {escape(', '.join(later))}")
        said = f"{plural(len(config.groups), 'group')}, {plural(len(warnings), 'warning')}"
        out.print(f"[green]valid[/]    {escape(str(file))}: {said}")
    if strict and warnings:
        raise typer.Exit(USAGE)


def _critical_paths(budgets: dict[str, float]) -> dict[str, timedelta]:
    """Of the plans that recover a group: they are what the RTO is for."""
    return {name: plan.critical_path(budgets) for name, plan in PLANS.items() if plan.has_rto}


def _unknown_budgets(config: Config) -> Iterator[str]:
    """Budgets of plans and steps that do not exist: misspelt, they would never count."""
    places = [(f"tiers.{name}", tier.budgets) for name, tier in config.tiers.items()]
    places += [(f"groups.{name}", group.budgets) for name, group in config.groups.items()]
    for path, budgets in places:
        for plan, steps in budgets.items():
            if plan not in PLANS:
                yield f"{path}.budgets.{plan}: no such plan{suggestion(plan, PLANS)}; known: {', '.join(PLANS)}"
                continue
            known = [step.name for step in PLANS[plan].steps()]
            for step in sorted(set(steps) - set(known)):
                said = f"no such step{suggestion(step, known)}; known: {', '.join(known)}"
                yield f"{path}.budgets.{plan}.{step}: {said}"


@app.command(
    epilog=examples(
        "drctl config alerts > /etc/prometheus/recovery-alerts.yml",
        "drctl config alerts | promtool check rules /dev/stdin",
    )
)
def alerts(file: File = None, output: Form = Output.TEXT) -> None:
    """Print the configured alerts as a rule file for Prometheus, with their thresholds and severities.

    deploy/alerts.yml has further ones, that need no threshold of yours.
    """
    configured = _load(find_config(file), output).monitoring.alerts
    for name in without_rule(configured):
        note(f"{name}: nothing is measured for it in this version, so it has no rule", output)
    found = {"groups": [rule_group(configured)]}
    if output is Output.JSON:
        print_json(found)
    else:
        typer.echo(_yaml(found), nl=False)


@app.command(
    epilog=examples(
        "drctl config show",
        "drctl config show --group shop",
        "drctl config show --group shop --output json   (with the snapshot that runs work with)",
    )
)
def show(
    file: File = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this group, with its snapshot.")] = None,
    output: Form = Output.TEXT,
) -> None:
    """Print the configuration with all defaults filled in. Secrets appear as references only.

    The text is a configuration that loads again. With --group a comment, or the key "snapshot" in JSON, says what
    a run of that group would work with, and its hash.
    """
    file = find_config(file)
    config = _load(file, output)
    try:
        shown = config.public(group)
        snapshot = config.snapshot(group) if group is not None else None
    except NotFound as error:
        _refuse(error, file, output)
    if output is Output.JSON:
        if snapshot is not None:
            shown = {**shown, "snapshot": snapshot.model_dump(mode="json")}
        print_json(shown)
        return
    if snapshot is not None:
        typer.echo(f"# group {snapshot.name}, configuration {snapshot.config_hash}")
    typer.echo(_yaml(shown), nl=False)


@app.command(epilog=examples("drctl config schema > recovery.schema.json   (for your editor)"))
def schema(
    output: Annotated[
        SchemaOutput, typer.Option("--output", "-o", help="JSON schema, a list of all keys, or docs/configuration.md.")
    ] = SchemaOutput.JSON,
) -> None:
    """Print the JSON schema of the configuration, or a list of all keys."""
    if output is SchemaOutput.JSON:
        print_json(Config.schema_document())
        return
    if output is SchemaOutput.MARKDOWN:
        typer.echo(markdown(), nl=False)
        return
    for line in key_lines(Config.schema_document()):
        typer.echo(line)


def key_lines(document: dict[str, Any]) -> list[str]:
    """``groups.<name>.tier  Its tier, by name. (required)`` for every key of the schema."""
    return [f"{path}  {description}" for path, description in _keys(document, document, "")]


def _keys(document: dict[str, Any], node: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, entry in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        required = " (required)" if name in node.get("required", []) else ""
        described = entry.get("description") or _referenced(document, entry).get("description", "")
        found.append((path, f"{described}{required}"))
        for inner, suffix in _below(document, entry):
            found += _keys(document, inner, f"{path}{suffix}.")
    return found


def _referenced(document: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else {}
    return found


def _below(document: dict[str, Any], entry: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The schemas of the keys below an entry, each with what stands between: ``.<name>`` or ``[]``."""
    if "$ref" in entry:
        return [(_referenced(document, entry), "")]
    found: list[tuple[dict[str, Any], str]] = []
    for arm in entry.get("anyOf", []):
        found += _below(document, arm)
    for key, suffix in (("additionalProperties", ".<name>"), ("items", "[]")):
        if isinstance(inner := entry.get(key), dict):
            found += [(below, suffix + further) for below, further in _below(document, inner)]
    return found


def _load(file: Path, output: Output) -> Config:
    try:
        return Config.load(file)
    except BadInput as error:
        _refuse(error, file, output)


def _refuse(error: BadInput | NotFound, file: Path, output: Output) -> NoReturn:
    """Every sentence on its own line on standard error (JSON on standard output), exit code 2, no traceback."""
    mistakes = error.mistakes if isinstance(error, ConfigurationInvalid) else []
    if output is Output.JSON:
        entries = [{"line": entry.line, "key": entry.key, "text": entry.text} for entry in mistakes]
        print_json({"file": str(file), "valid": False, "mistakes": entries, "error": str(error)})
    else:
        print_error(str(error), USAGE, as_json=False)
        if len(mistakes) > 1:
            messages().print(f"{plural(len(mistakes), 'mistake')} in {escape(str(file))}")
    raise typer.Exit(USAGE)


def _yaml(value: dict[str, Any]) -> str:
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(_with_blocks(value), text)
    return text.getvalue()


def _with_blocks(value: Any) -> Any:
    """Texts of several lines as they are read best."""
    if isinstance(value, dict):
        return {key: _with_blocks(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_blocks(entry) for entry in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value
