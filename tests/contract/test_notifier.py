"""The Notifier port against the fake and against Apprise with a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import apprise.decorators
import pytest
import structlog

from recovery.adapters.apprise import AppriseNotifier, Channel
from recovery.errors import BadInput, Unreachable
from recovery.ports.notify import Notifier, Severity
from recovery.telemetry.logs import configure_logs
from recovery.telemetry.redaction import Redactor
from tests.fakes.notifier import FakeNotifier

EVERY = frozenset(Severity)
TOKEN = "T0ken-that-Nobody-may-see"


@dataclass
class Webhook:
    """A real HTTP server on loopback. ``answers`` are given in order, then 200; 0 hangs until ``release`` is set."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = TOKEN) -> str:
        return f"json://127.0.0.1:{self.port}/{path}"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = hook.answers.pop(0) if hook.answers else 200
            if answer == 0:
                hook.release.wait(30)
                return
            if answer == 200:
                hook.got.append(json.loads(body))
                hook.paths.append(self.path)
                hook.arrived.set()
            self.send_response(answer)
            self.end_headers()
            self.wfile.write(b"answer of the server")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    hook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield hook
    hook.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def notifier(*channels: Channel, timeout: float = 2, budget: float = 4) -> AppriseNotifier:
    return AppriseNotifier(
        channels,
        timeout=timedelta(seconds=timeout),
        budget=timedelta(seconds=budget),
        first_pause=timedelta(seconds=0.05),
        redactor=Redactor(),
    )


# The contract, for every implementation -----------------------------------------------------------------------------


@dataclass
class Subject:
    """One implementation with channel ``ops`` (every severity), ``pager`` (critical only), and ``dead`` if asked."""

    make: Callable[[bool], Notifier]
    titles: Callable[[], list[str]]


@pytest.fixture(params=["fake", "apprise"])
def subject(request: pytest.FixtureRequest, webhook: Webhook, closed_port: int) -> Subject:
    if request.param == "fake":
        made: list[FakeNotifier] = []

        def fake(dead: bool) -> Notifier:
            channels: dict[str, set[Severity]] = {"ops": set(Severity), "pager": {Severity.CRITICAL}}
            if dead:
                channels["dead"] = set(Severity)
            made.append(FakeNotifier(channels, broken={"dead"}))
            return made[-1]

        return Subject(fake, lambda: [message.title for message in made[-1].sent])

    def real(dead: bool) -> Notifier:
        channels = [Channel("ops", webhook.url(), EVERY)]
        channels.append(Channel("pager", webhook.url("pager"), frozenset({Severity.CRITICAL})))
        if dead:
            channels.append(Channel("dead", f"json://127.0.0.1:{closed_port}/", EVERY))
        return notifier(*channels, budget=0.3)

    return Subject(real, lambda: [message["title"] for message in webhook.got])


async def test_routes_by_severity(subject: Subject) -> None:
    channels = subject.make(False)
    assert await channels.send(Severity.INFO, "backup done", "all well") == ["ops"]
    assert await channels.send(Severity.CRITICAL, "region lost", "act now") == ["ops", "pager"]
    assert sorted(subject.titles()) == ["backup done", "region lost", "region lost"]


async def test_a_dead_channel_is_named_and_the_others_get_the_message(subject: Subject) -> None:
    with pytest.raises(Unreachable, match="dead"):
        await subject.make(True).send(Severity.WARNING, "lag is high", "61 s")
    assert subject.titles() == ["lag is high"]


# Apprise with real HTTP ---------------------------------------------------------------------------------------------


async def test_message_arrives_whole(webhook: Webhook) -> None:
    body = "Region A is lost.\nRecovered in B: RTO 42 s — „ümläut“ <b> & %s {x}"
    await notifier(Channel("ops", webhook.url(), EVERY)).send(Severity.CRITICAL, "shop recovered", body)
    [message] = webhook.got
    assert message["title"] == "shop recovered"
    assert message["message"] == body
    assert message["type"] == "failure"
    assert webhook.paths == [f"/{TOKEN}"]


async def test_error_500_then_ok_is_retried(webhook: Webhook) -> None:
    webhook.answers = [500, 503]
    assert await notifier(Channel("ops", webhook.url(), EVERY)).send(Severity.INFO, "t", "b") == ["ops"]
    assert len(webhook.got) == 1


async def test_hanging_channel_is_given_up_in_time(webhook: Webhook) -> None:
    webhook.answers = [0] * 10
    channels = notifier(Channel("slow", webhook.url(), EVERY), timeout=0.4, budget=0.43)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"slow: no answer within 0\.4 s"):
        await channels.send(Severity.CRITICAL, "t", "b")
    assert time.monotonic() - began < 2


async def test_slow_channel_does_not_delay_the_fast_one(webhook: Webhook, closed_port: int) -> None:
    silent = socket.create_server(("127.0.0.1", closed_port))  # accepts, never answers
    try:
        channels = notifier(
            Channel("silent", f"json://127.0.0.1:{closed_port}/", EVERY),
            Channel("fast", webhook.url(), EVERY),
            timeout=1.5,
            budget=1.5,
        )
        began = time.monotonic()
        sending = asyncio.create_task(channels.send(Severity.INFO, "t", "b"))
        assert await asyncio.to_thread(webhook.arrived.wait, 5)
        assert time.monotonic() - began < 1
        with pytest.raises(Unreachable, match=r"silent: .*Delivered to fast\."):
            await sending
    finally:
        silent.close()


async def test_event_loop_is_free_while_a_channel_hangs(webhook: Webhook) -> None:
    webhook.answers = [0] * 10
    channels = notifier(Channel("slow", webhook.url(), EVERY), timeout=0.5, budget=0.5)
    sending = asyncio.create_task(channels.send(Severity.INFO, "t", "b"))
    ticks = 0
    while not sending.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 20
    with pytest.raises(Unreachable):
        sending.result()


async def test_cancel_is_immediate(webhook: Webhook) -> None:
    webhook.answers = [0]
    sending = asyncio.create_task(notifier(Channel("slow", webhook.url(), EVERY)).send(Severity.INFO, "t", "b"))
    await asyncio.sleep(0.05)
    sending.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert time.monotonic() - began < 0.5


async def test_hanging_threads_do_not_pile_up(webhook: Webhook) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    dripping = threading.Event()

    def drip() -> None:
        connection, _ = silent.accept()
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not dripping.wait(0.05):
            try:
                connection.sendall(b"x")
            except OSError:
                break
        connection.close()

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        channels = notifier(
            Channel("drip", f"json://127.0.0.1:{silent.getsockname()[1]}/", EVERY), timeout=0.2, budget=0.3
        )
        for _ in range(3):
            with pytest.raises(Unreachable):
                await channels.send(Severity.INFO, "t", "b")
        assert sum(t.name == "notify-drip" for t in threading.enumerate()) == 1
        with pytest.raises(Unreachable, match="an earlier message still hangs there"):
            await channels.send(Severity.INFO, "t", "b")
    finally:
        dripping.set()
        silent.close()
        thread.join()


async def test_refusing_channel_says_so_without_its_address(closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    channel = Channel("ops", f"json://user:{TOKEN}@127.0.0.1:{closed_port}/{TOKEN}", EVERY)
    with pytest.raises(Unreachable) as failure:
        await notifier(channel, budget=0.2).send(Severity.INFO, "t", "b")
    sentence = str(failure.value)
    assert sentence.startswith("Notification not delivered: ops: ")
    assert "attempt" in sentence
    for text in (sentence, repr(failure.value), repr(channel), caplog.text):
        assert TOKEN not in text


@pytest.fixture
def leaky_service() -> str:
    """A service whose plugin prints its whole address and its token, as some real ones do."""

    @apprise.decorators.notify(on="leakytest")  # type: ignore[untyped-decorator]
    def leaky(body: str, title: str, notify_type: str, meta: dict[str, Any], *_: Any, **__: Any) -> bool:
        logging.getLogger("apprise").warning("cannot reach %s", meta["url"])
        logging.getLogger("apprise").warning("token %s was refused", TOKEN)
        return False

    return f"leakytest://host/{TOKEN}"


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored_logging")
async def test_a_plugin_that_prints_its_address_is_masked_and_kept_out_of_the_log(
    leaky_service: str,
) -> None:
    written = io.StringIO()
    configure_logs("json", "DEBUG", stream=written, redactor=Redactor())
    channels = AppriseNotifier([Channel("leaky", leaky_service, EVERY)], attempts=1, redactor=Redactor())
    with pytest.raises(Unreachable, match=r"leaky: cannot reach .* token \*\*\* was refused") as failure:
        await channels.send(Severity.INFO, "t", "b")
    assert TOKEN not in str(failure.value)
    assert "apprise" not in written.getvalue()


async def test_refused_by_the_server_gives_its_status(webhook: Webhook) -> None:
    webhook.answers = [403] * 50
    with pytest.raises(Unreachable, match="403"):
        await notifier(Channel("ops", webhook.url(), EVERY), budget=1).send(Severity.INFO, "t", "b")


async def test_a_try_that_the_budget_cuts_short_hides_no_reason(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook.answers = [403] * 50
    ours = notifier(Channel("ops", webhook.url(), EVERY), budget=1)
    post, tries = ours._post, 0

    def slower(*message: Any) -> str:
        nonlocal tries
        tries += 1
        if tries > 1:
            time.sleep(1)
        return post(*message)

    monkeypatch.setattr(ours, "_post", slower)
    with pytest.raises(Unreachable, match="403"):
        await ours.send(Severity.INFO, "t", "b")
    assert tries > 1


async def test_overlong_texts_are_cut(webhook: Webhook) -> None:
    await notifier(Channel("ops", webhook.url(), EVERY)).send(Severity.INFO, "t" * 10_000, "b" * 1_000_000)
    [message] = webhook.got
    assert len(message["title"]) <= 250
    assert len(message["message"]) <= 16_000


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        ([Channel("x", f"nosuch://{TOKEN}", EVERY)], r"'x' has an address \(nosuch://…\) that Apprise cannot use"),
        ([Channel("x", TOKEN, EVERY)], r"'x' has an address \(\?://…\) that Apprise cannot use"),
        ([Channel("x", "json://h", frozenset())], "name at least one of info, warning, critical"),
        ([Channel("x", "json://h", EVERY), Channel("x", "json://i", EVERY)], "Two notification channels are named 'x'"),
    ],
)
def test_bad_channels_are_refused_with_a_sentence(channels: list[Channel], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence) as failure:
        notifier(*channels)
    assert TOKEN not in str(failure.value)
