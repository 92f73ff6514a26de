"""What Apprise sends to services for people: an SMTP server, and the addresses of PagerDuty and Slack, on loopback."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from apprise.plugins import pagerduty, slack

from recovery.adapters.apprise import AppriseNotifier, Channel
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.ports.notify import Markup, Severity
from recovery.telemetry.redaction import Redactor
from tests.unit.test_incident_text import INCIDENT

PATIENCE = timedelta(seconds=10)
KEY = "a" * 32


@dataclass
class Mailbox:
    port: int = 0
    got: list[EmailMessage] = field(default_factory=list)

    def channel(self) -> Channel:
        address = f"mailto://127.0.0.1:{self.port}?from=dr@example.com&to=oncall@example.com&mode=insecure"
        return Channel("mail", address, frozenset(Severity))

    def part(self, kind: str) -> str:
        (message,) = self.got
        (found,) = [part for part in message.walk() if part.get_content_type() == kind]
        return str(found.get_content())


@contextmanager
def _served(server: socketserver.TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()

    class Smtp(socketserver.StreamRequestHandler):
        """RFC 5321, as much of it as one message needs."""

        def handle(self) -> None:
            self._say(b"220 here")
            while word := self.rfile.readline().split(b" ")[0].strip().upper():
                if word == b"DATA":
                    self._say(b"354 go on")
                    lines = iter(self.rfile.readline, b".\r\n")
                    whole = b"".join(line.removeprefix(b".") if line.startswith(b"..") else line for line in lines)
                    box.got.append(email.message_from_bytes(whole, policy=email.policy.default))
                self._say(b"221 bye" if word == b"QUIT" else b"250 done")

        def _say(self, words: bytes) -> None:
            self.wfile.write(words + b"\r\n")

    with _served(socketserver.TCPServer(("127.0.0.1", 0), Smtp)) as box.port:
        yield box


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address, and the documents that were sent there."""
    got: list[dict[str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202 if "routing_key" in got[-1] else 200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    with _served(ThreadingHTTPServer(("127.0.0.1", 0), Api)) as port:
        yield f"http://127.0.0.1:{port}", got


@pytest.fixture
def pager(posted: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> Channel:
    monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, pagerduty.PagerDutyRegion.US, posted[0])
    return Channel("pager", f"pagerduty://{KEY}@key?overflow=split", frozenset(Severity))


def notifier(channel: Channel) -> AppriseNotifier:
    return AppriseNotifier([channel], timeout=PATIENCE, budget=PATIENCE, attempts=1, redactor=Redactor())


async def test_a_mail_about_an_incident_shows_its_lines_and_headings(mailbox: Mailbox) -> None:
    text = TemplateIncidentWriter().write(INCIDENT.model_copy(update={"summary": "region-a says <html>502</html>"}))
    await notifier(mailbox.channel()).send(Severity.CRITICAL, "Failover of shop has begun", text, Markup.MARKDOWN)
    page = mailbox.part("text/html")
    assert "<strong>Status</strong>: IDENTIFIED<br" in page
    assert "<h3>Summary</h3>" in page and "<li>Affected services: auth, payments</li>" in page
    assert "&lt;html&gt;502" in page, "a server's words are no part of the page"
    plain = mailbox.part("text/plain").splitlines()
    assert any(line.strip().endswith("Incident Commander: ana") for line in plain) and len(plain) > 10
    assert mailbox.got[0]["Subject"] == "Failover of shop has begun"


async def test_a_mail_of_plain_words_keeps_them_and_its_lines(mailbox: Mailbox) -> None:
    await notifier(mailbox.channel()).send(Severity.WARNING, "lag", "slot <shop> *grows*\n61 s behind")
    assert mailbox.part("text/plain").splitlines()[:2] == ["slot <shop> *grows*", "61 s behind"]


async def test_a_pager_gets_what_it_takes_of_a_long_message(
    posted: tuple[str, list[dict[str, Any]]], pager: Channel
) -> None:
    """PagerDuty refuses an event whose summary has more than 1,024 characters: nobody would be called."""
    await notifier(pager).send(Severity.CRITICAL, "Failover of shop failed", "at promote-postgres. " * 200)
    (event,) = posted[1]
    summary = event["payload"]["summary"]
    assert summary.startswith("Failover of shop failed") and 900 < len(summary) <= 1024
    assert event["payload"]["severity"] == "critical" and event["event_action"] == "trigger"


async def test_a_chat_shows_an_incident_in_its_own_markup(
    posted: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slack.NotifySlack, "webhook_url", posted[0])
    chat = Channel("chat", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops", frozenset(Severity))
    text = TemplateIncidentWriter().write(INCIDENT)
    await notifier(chat).send(Severity.CRITICAL, "Failover of shop has begun", text, Markup.MARKDOWN)
    shown = json.dumps(posted[1])
    assert "*Status*: IDENTIFIED" in shown and "**Status**" not in shown
