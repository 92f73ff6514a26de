"""Incident messages from a Jinja template: the built-in one, or the organisation's own."""

from __future__ import annotations

from pathlib import Path

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from recovery.domain.incident import Incident
from recovery.errors import BadInput

BUILT_IN = Path(__file__).with_name("incident.md.j2")


class TemplateIncidentWriter:
    """``recovery.ports.incidents.IncidentWriter``.

    Args:
        file: the template; it sees the fields of ``recovery.domain.incident.Incident``.

    Raises:
        BadInput: the file cannot be read or is no template.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or BUILT_IN
        environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)  # plain text, never HTML
        try:
            self._template = environment.from_string(self._file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise BadInput(f"notifications.incident_template {self._file} cannot be used: {error}") from error

    def write(self, incident: Incident) -> str:
        """Raises BadInput when the template asks for what an incident does not have."""
        try:
            return self._template.render(incident.model_dump()).strip()
        except TemplateError as error:
            known = ", ".join(Incident.model_fields)
            raise BadInput(f"notifications.incident_template {self._file}: {error}; it may use {known}") from error
