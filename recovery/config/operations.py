"""Monitoring and notifications."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.names import AbsolutePath, Host, ListenPort, WebAddress
from recovery.config.values import Duration, Threshold, expected
from recovery.domain.secret import SecretRef

Severity = Literal["info", "warning", "critical"]

# Alerts of deploy/alerts.yml. The first kind is measured in time, the second is counted.
TIMED = ("high_replication_lag", "rto_violation", "rpo_violation", "validation_overdue", "drill_overdue")
COUNTED = ("backup_failure", "validation_failure", "failover_failure")


class Alert(Section):
    """An alert and when it is raised."""

    name: Literal[
        "high_replication_lag",
        "rto_violation",
        "rpo_violation",
        "validation_overdue",
        "drill_overdue",
        "backup_failure",
        "validation_failure",
        "failover_failure",
    ] = Field(description="What is watched.", examples=["high_replication_lag"])
    threshold: Threshold = Field(description="Value at which it is raised: a duration or a count.", examples=["60s"])
    severity: Severity = Field(description="How much it matters.", examples=["warning"])

    @model_validator(mode="after")
    def _unit(self) -> Alert:
        is_duration = isinstance(self.threshold, timedelta)
        if self.name in TIMED and not is_duration:
            raise expected(f"a duration as threshold of {self.name}, for example 60s")
        if self.name in COUNTED and is_duration:
            raise expected(f"a count as threshold of {self.name}, for example 2")
        return self


class Metrics(Section):
    """The Prometheus endpoint of each of our processes."""

    bind: Host = Field("127.0.0.1", description="Address to listen at.", examples=["0.0.0.0"])
    port: ListenPort = Field(9464, description="TCP port; 0 takes any free one.", examples=[9464])


def _seed_alerts() -> list[Alert]:
    return [
        Alert(name="high_replication_lag", threshold=timedelta(seconds=60), severity="warning"),
        Alert(name="backup_failure", threshold=2, severity="critical"),
        Alert(name="rto_violation", threshold=timedelta(seconds=900), severity="critical"),
    ]


class Monitoring(Section):
    """Metrics and alerts."""

    metrics: Metrics = Field(default_factory=Metrics, description="Where metrics are served.")
    traces: WebAddress | None = Field(
        None,
        description="Collector that gets a trace of each plan and its steps, by OTLP over HTTP.",
        examples=["http://otel-collector:4318/v1/traces"],
    )
    prometheus_url: WebAddress | None = Field(
        None,
        description="Prometheus, which a recovery asks whether monitoring works again; it warns where it does not.",
        examples=["http://prometheus:9090"],
    )
    alerts: list[Alert] = Field(
        default_factory=_seed_alerts,
        description="Alerts with their thresholds: `drctl config alerts` writes them as rules for Prometheus.",
    )


class Channel(Section):
    """Somebody or something that is told."""

    url: SecretRef = Field(
        description="Apprise address (slack://, msteams://, pagerduty://, mailto://, json:// ...): it holds a token.",
        examples=["env:SLACK_URL"],
    )
    severities: list[Severity] = Field(
        default_factory=lambda: list(get_args(Severity)),
        min_length=1,
        description="Which messages it gets.",
        examples=[["warning", "critical"]],
    )


class Notifications(Section):
    """Who is told what."""

    channels: dict[str, Channel] = Field(default_factory=dict, description="Channels by name.")
    timeout: Duration = Field(timedelta(seconds=10), description="Longest wait for one channel.", examples=["10s"])
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        3, description="Attempts per message and channel.", examples=[3]
    )
    incident_template: AbsolutePath | None = Field(
        None,
        description="File with the text of incident messages, in Markdown; without it the built-in one.",
        examples=["/etc/recovery/incident.md.j2"],
    )
