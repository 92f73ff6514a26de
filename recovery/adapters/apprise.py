"""Notifications through Apprise: Slack, Teams, PagerDuty, e-mail, webhooks and a hundred more, each by its URL.

Every attempt runs in a daemon thread of its own: Apprise's network calls block, one that hangs must neither delay the
other channels nor keep the process from ending.
"""

from __future__ import annotations

import asyncio
import html
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import apprise
from apprise.common import NotifyFormat, OverflowMode

from recovery.errors import BadInput, Unreachable
from recovery.ports.notify import Markup, Severity
from recovery.telemetry.redaction import REDACTOR, Redactor

LONGEST_TITLE = 250  # characters; what the strictest services show
LONGEST_BODY = 16_000
LONGEST_REASON = 200

_KINDS = {
    Severity.INFO: apprise.NotifyType.INFO,
    Severity.WARNING: apprise.NotifyType.WARNING,
    Severity.CRITICAL: apprise.NotifyType.FAILURE,
}
_FORMATS = {Markup.NONE: NotifyFormat.TEXT, Markup.MARKDOWN: NotifyFormat.MARKDOWN}


@dataclass(frozen=True)
class Channel:
    """Where messages of some severities go. ``url`` is a secret: most services put their token into it."""

    name: str
    url: str = field(repr=False)
    severities: frozenset[Severity]


@dataclass(frozen=True)
class _Message:
    severity: Severity
    title: str
    body: str
    markup: Markup


class AppriseNotifier:
    """Notifier port. Delivery is at least once: a message whose answer was lost is sent again.

    A message that is longer than its service takes is cut there: PagerDuty, which takes 1,024 characters, would refuse
    it as a whole. It is never split: Apprise rests for seconds between the parts.

    Args:
        channels: with distinct names; all are checked here, without any connection.
        timeout: of one attempt on one channel.
        budget: of all attempts on one channel together.
        attempts: at most, on one channel; None leaves it to the budget.
        first_pause: before the second attempt; doubled for each further one.

    Raises:
        BadInput: a channel's address is of no kind that Apprise knows, a name is used twice, no severity is given.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        timeout: timedelta = timedelta(seconds=10),
        budget: timedelta = timedelta(seconds=45),
        attempts: int | None = None,
        first_pause: timedelta = timedelta(seconds=0.5),
        redactor: Redactor = REDACTOR,
    ) -> None:
        # Apprise logs server answers and addresses; what is worth knowing is in our own error.
        _reasons.install()
        self._channels = list(channels)
        self._timeout = timeout.total_seconds()
        self._budget = budget.total_seconds()
        self._most_attempts = attempts
        self._first_pause = first_pause.total_seconds()
        self._redactor = redactor
        self._busy: dict[str, threading.Thread] = {}
        _check(self._channels)
        for channel in self._channels:
            redactor.register(channel.url)

    async def send(self, severity: Severity, title: str, body: str, markup: Markup = Markup.NONE) -> list[str]:
        """Delivers to every channel routed for the severity, all at the same time.

        Returns the names of those that took it, in the order of the configuration; none are routed: an empty list.

        Raises:
            Unreachable: channels did not take it within their budget; each is named with its reason, no address is.
        """
        routed = [channel for channel in self._channels if severity in channel.severities]
        message = _Message(severity, _cut(title, LONGEST_TITLE), _cut(body, LONGEST_BODY), markup)
        failures = await asyncio.gather(*(self._deliver(channel, message) for channel in routed))
        missed = [f"{channel.name}: {failure}" for channel, failure in zip(routed, failures, strict=True) if failure]
        taken = [channel.name for channel, failure in zip(routed, failures, strict=True) if not failure]
        if missed:
            others = f" Delivered to {', '.join(taken)}." if taken else " No channel took it."
            raise Unreachable(f"Notification not delivered: {'; '.join(missed)}.{others}")
        return taken

    async def _deliver(self, channel: Channel, message: _Message) -> str:
        """Tries until the budget is used up; returns the last reason of failure, empty after success.

        A try that the budget cuts short only tells that: it replaces no reason of an earlier one.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._budget
        pause = self._first_pause
        attempts, last = 0, ""
        while True:
            attempts += 1
            within = min(self._timeout, deadline - loop.time())
            reason = await self._attempt(channel, message, within)
            if not reason:
                return ""
            if not last or within >= self._timeout or reason != _no_answer(within):
                last = reason
            if loop.time() + pause >= deadline or attempts == self._most_attempts:
                return f"{last} ({attempts} attempt{'s' if attempts > 1 else ''})"
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._timeout)

    async def _attempt(self, channel: Channel, message: _Message, within: float) -> str:
        # A thread that hangs in a dripping answer cannot be ended; starting more of them would have no bound.
        if (former := self._busy.get(channel.name)) is not None and former.is_alive():
            await asyncio.sleep(min(within, self._first_pause))
            if former.is_alive():
                return "an earlier message still hangs there"
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[str] = loop.create_future()

        def work() -> None:
            reason = self._post(channel, message, within)
            # The loop may be gone when a hanging server lets go at last: then nobody waits for the answer.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, outcome, reason)

        thread = threading.Thread(target=work, name=f"notify-{channel.name}", daemon=True)
        self._busy[channel.name] = thread
        thread.start()
        try:
            return await asyncio.wait_for(outcome, within)
        except TimeoutError:
            return _no_answer(within)

    def _post(self, channel: Channel, message: _Message, within: float) -> str:
        """In its thread: one message through a fresh plugin (they throttle per object); the reason, empty if sent."""
        began = time.monotonic()
        with _reasons.collected() as said:
            try:
                plugin: Any = apprise.Apprise.instantiate(channel.url)
                plugin.socket_connect_timeout = min(plugin.socket_connect_timeout, within)
                plugin.socket_read_timeout = within
                sent = plugin.notify(**_as_it_shows(plugin, message))
            except Exception as error:  # noqa: BLE001 - a hundred plugins of third parties raise what they like
                sent, said[:] = False, [f"{type(error).__name__}: {error}"]
        if sent:
            return ""
        if time.monotonic() - began >= within:
            return _no_answer(within)  # a plugin would call this a connection error
        # A plugin's words are masked as a whole and shortened: they repeat addresses and answers of servers.
        words = " ".join(" ".join(said).split()) or "the service refused the message"
        return _cut(_without_parts(self._redactor.mask(words), channel.url), LONGEST_REASON).rstrip(".")


def _as_it_shows(plugin: Any, message: _Message) -> dict[str, Any]:
    """The plugin converts from the body's markup to its service's, so that its lines stay lines."""
    written, body = _FORMATS[message.markup], message.body
    if written is NotifyFormat.MARKDOWN and plugin.resolve_format(written) is NotifyFormat.HTML:
        body = html.escape(body, quote=False)  # a server's words may hold tags, which Markdown would leave as they are
    return {
        "title": message.title,
        "body": body,
        "body_format": written,
        "notify_type": _KINDS[message.severity],
        "overflow": OverflowMode.TRUNCATE,
    }


def _check(channels: list[Channel]) -> None:
    seen: set[str] = set()
    for channel in channels:
        scheme = channel.url.partition("://")[0] if "://" in channel.url else "?"
        if channel.name in seen:
            raise BadInput(f"Two notification channels are named {channel.name!r}: give each its own name.")
        seen.add(channel.name)
        if not channel.severities:
            known = ", ".join(severity.value for severity in Severity)
            raise BadInput(f"Notification channel {channel.name!r} gets no severity: name at least one of {known}.")
        if apprise.Apprise.instantiate(channel.url) is None:
            raise BadInput(
                f"Notification channel {channel.name!r} has an address ({scheme}://…) that Apprise cannot use: "
                "expected a complete Apprise URL, for example slack://token/#channel, mailtos://user:password@host or "
                "jsons://host/path."
            )


def _without_parts(text: str, url: str) -> str:
    """Masks every longer part of the address as well: plugins print tokens out of their place."""

    for part in sorted(re.split(r"[/:@?&=#]+", url), key=len, reverse=True):
        if len(part) >= 8:
            text = text.replace(part, "***")
    return text


def _no_answer(within: float) -> str:
    return f"no answer within {within:.1f} s"


def _settle(outcome: asyncio.Future[str], reason: str) -> None:
    if not outcome.done():
        outcome.set_result(reason)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


class _Reasons(logging.Handler):
    """Catches what Apprise warns about in the current thread, and keeps it out of every log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._local = threading.local()

    def install(self) -> None:
        logger = logging.getLogger("apprise")
        if self not in logger.handlers:
            logger.addHandler(self)
        logger.propagate = False
        logger.setLevel(logging.WARNING)

    def collected(self) -> _Collecting:
        return _Collecting(self._local)

    def emit(self, record: logging.LogRecord) -> None:
        said: list[str] | None = getattr(self._local, "said", None)
        if said is not None and len(said) < 5:
            said.append(record.getMessage())


class _Collecting:
    def __init__(self, local: threading.local) -> None:
        self._local = local

    def __enter__(self) -> list[str]:
        self._local.said = []
        said: list[str] = self._local.said
        return said

    def __exit__(self, *_: object) -> None:
        self._local.said = None


_reasons = _Reasons()
