"""Remembers every message instead of sending it."""

from __future__ import annotations

from dataclasses import dataclass, field

from recovery.errors import Unreachable
from recovery.ports.notify import Markup, Severity


@dataclass(frozen=True)
class Sent:
    channel: str
    severity: Severity
    title: str
    body: str


@dataclass
class FakeNotifier:
    """``channels`` maps a channel's name to the severities that it gets; those in ``broken`` never take a message."""

    channels: dict[str, set[Severity]] = field(default_factory=lambda: {"ops": set(Severity)})
    broken: set[str] = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)

    async def send(self, severity: Severity, title: str, body: str, markup: Markup = Markup.NONE) -> list[str]:
        routed = [name for name, severities in self.channels.items() if severity in severities]
        taken = [name for name in routed if name not in self.broken]
        self.sent += [Sent(name, severity, title, body) for name in taken]
        if missing := sorted(set(routed) - set(taken)):
            raise Unreachable(f"These channels did not take the message {title!r}: {', '.join(missing)}.")
        return taken
