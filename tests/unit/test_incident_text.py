"""Incident messages: the built-in form has every field of a communication plan, an own template is checked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.domain.incident import Incident, IncidentSeverity, IncidentStatus
from recovery.errors import BadInput

INCIDENT = Incident(
    incident_id="01a2",
    group="shop",
    status=IncidentStatus.IDENTIFIED,
    severity=IncidentSeverity.CRITICAL,
    started_at=datetime(2026, 11, 22, 3, 4, tzinfo=UTC),
    now=datetime(2026, 11, 22, 3, 9, tzinfo=UTC),
    summary="region-a does not answer",
    services=["auth", "payments"],
    actions=["recovering in region-b"],
    next_update_at=datetime(2026, 11, 22, 3, 24, tzinfo=UTC),
    commander="ana",
)


def test_the_built_in_form_has_every_field():
    text = TemplateIncidentWriter().write(INCIDENT)
    for words in [
        "**Status**: IDENTIFIED",
        "**Severity**: Critical",
        "**Start Time**: 2026-11-22 03:04 UTC",
        "**Current Time**: 2026-11-22 03:09 UTC",
        "### Summary\nregion-a does not answer",
        "Affected services: auth, payments",
        "Affected users: unknown",
        "Business impact: unknown",
        "- recovering in region-b",
        "Expected at: 2026-11-22 03:24 UTC",
        "Incident Commander: ana",
    ]:
        assert words in text


def test_an_own_template_is_used(tmp_path: Path):
    file = tmp_path / "incident.md.j2"
    file.write_text("{{ group }}: {{ status }}")
    assert TemplateIncidentWriter(file).write(INCIDENT) == "shop: IDENTIFIED"


@pytest.mark.parametrize("template", ["{{ group", "{% nonsense %}"])
def test_what_is_no_template_is_said_at_the_start(tmp_path: Path, template: str):
    file = tmp_path / "incident.md.j2"
    file.write_text(template)
    with pytest.raises(BadInput, match="incident_template"):
        TemplateIncidentWriter(file)


def test_a_field_that_does_not_exist_is_said_with_the_known_ones(tmp_path: Path):
    file = tmp_path / "incident.md.j2"
    file.write_text("{{ grup }}")
    with pytest.raises(BadInput, match="it may use incident_id, group"):
        TemplateIncidentWriter(file).write(INCIDENT)
