"""Requests to an Elasticsearch or OpenSearch cluster, each bounded in time and in what is read, and tried once.

Sources: the products' REST references ("Snapshot and restore APIs", "Index APIs", "Cluster APIs"), and the answers of
Elasticsearch 8.17 and OpenSearch 2.19.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from recovery.adapters.trust import trusted
from recovery.domain.search import SearchProduct, SearchServer, number
from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, SourceFailed, Unreachable

OLDEST = {SearchProduct.ELASTICSEARCH: (7, 10, 0), SearchProduct.OPENSEARCH: (1, 0, 0)}
LONGEST_WORDS = 400  # characters of a server's words in an error
LONGEST_PATH = 3000  # bytes; servers take a first line of 4096
CONNECT_SECONDS = 5.0

_BUSY = frozenset(
    {
        "concurrent_snapshot_execution_exception",
        "snapshot_in_progress_exception",
        "process_cluster_event_timeout_exception",
    }
)
_MISSING = frozenset(
    {
        "repository_missing_exception",
        "snapshot_missing_exception",
        "index_not_found_exception",
        "aliases_not_found_exception",
    }
)
_REPOSITORY = frozenset({"repository_exception", "repository_verification_exception", "snapshot_exception"})


@dataclass(frozen=True)
class SearchLogin:
    """``user`` None sends no credentials."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # in the server's certificate, where it differs from the address


@dataclass(frozen=True)
class SearchLimits:
    """Bounds of single requests; a wait as a whole has its own."""

    request_seconds: float = 30.0
    poll_seconds: float = 1.0  # between two looks at something that goes on
    unplaced_seconds: float = 60.0  # a restored shard that no node may take for so long will not be taken
    longest_answer: int = 64 << 20  # bytes


class ServerSaid(Exception):
    """An error answer: its status, the type of the server's exception, and its words."""

    def __init__(self, status: int, kind: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.kind = kind


class SearchConnection:
    """One cluster at one address (``https://host:port``, without a user in it). Close it in the end.

    Raises BadInput where the address cannot be used.
    """

    def __init__(self, address: str, login: SearchLogin | None = None, limits: SearchLimits | None = None) -> None:
        self.login = login or SearchLogin()
        self.limits = limits or SearchLimits()
        self.name = _checked(address)
        auth = httpx.BasicAuth(self.login.user, self.login.password or "") if self.login.user is not None else None
        self._http = httpx.AsyncClient(
            base_url=address.rstrip("/"),
            auth=auth,
            verify=self.login.tls or trusted(),
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=4),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def server(self) -> SearchServer:
        """Asked anew: a server may have been upgraded, or be another one. Raises Refused where it is too old."""
        found = await self.ask("GET", "/")
        try:
            version = found["version"]
            product = SearchProduct(version.get("distribution", SearchProduct.ELASTICSEARCH))
            server = SearchServer(
                product=product,
                version=version["number"],
                cluster=found["cluster_name"],
                cluster_uuid=found["cluster_uuid"],
            )
            old = number(server.version) < OLDEST[product]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"What answers at {self.name} is no Elasticsearch or OpenSearch: {error!r}.") from error
        if old:
            oldest = ".".join(map(str, OLDEST[product]))
            raise Refused(f"{server.title} at {self.name} is too old: {oldest} and later can be recovered.")
        if server.cluster_uuid == "_na_":
            raise Unreachable(f"{server.title} at {self.name} has not joined a cluster yet.")
        return server

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        seconds: float | None = None,
        **query: Any,
    ) -> Any:
        """One request, within ``seconds`` (``request_seconds``) with its answer; the parsed JSON.

        Raises:
            ServerSaid: an answer that is for the caller to judge.
            Unreachable, Refused, Contended: see ``SearchRecovery``.
        """
        within = seconds or self.limits.request_seconds
        parameters = {name: _text(value) for name, value in query.items() if value is not None}
        extensions = {"sni_hostname": self.login.server_name} if self.login.server_name else {}
        try:
            async with (
                asyncio.timeout(within),
                self._http.stream(
                    method,
                    path,
                    params=parameters,
                    json=body,
                    timeout=httpx.Timeout(within, connect=min(within, CONNECT_SECONDS)),
                    extensions=extensions,
                ) as answer,
            ):
                content = await self._read(answer)
        except (httpx.HTTPError, TimeoutError) as error:
            words = str(error) or f"no answer within {within:g} s"
            raise Unreachable(f"{self.name} could not be asked {method} {path[:100]}: {words}.") from error
        if answer.status_code < 400:
            return _parsed(content, self.name)
        raise self._refusal(answer.status_code, content, f"{method} {path[:100]}")

    async def found(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
        """As ``ask``; None where the server says that there is none."""
        try:
            return await self.ask(method, path, body, **query)
        except ServerSaid as error:
            if error.status == 404:
                return None
            raise

    async def _read(self, answer: httpx.Response) -> bytes:
        content = bytearray()
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > self.limits.longest_answer:
                raise Refused(
                    f"{self.name} sent an answer of more than {self.limits.longest_answer >> 20} MiB: choose fewer"
                    " indices, or delete snapshots that nobody needs."
                )
        return bytes(content)

    def _refusal(self, status: int, content: bytes, asked: str) -> Exception:
        kind, words = _why(content)
        if self.login.password:
            words = words.replace(self.login.password, "***")
        said = f"{self.name} answered {asked} with {status}: {words}"
        if status == 401 or (status == 403 and kind == "security_exception"):
            return Refused(f"{said}. Check elasticsearch.user, its password and its role.")
        if status == 403:
            return Refused(said)
        if kind in _BUSY or status == 409:
            return Contended(said)
        if status in (429, 502, 503, 504):
            return Unreachable(said)
        return ServerSaid(status, kind, words)


def judged(error: ServerSaid, what: str, otherwise: type[RecoveryError] = SourceFailed) -> RecoveryError:
    """This library's error for an answer that needs no closer look; ``what`` begins its sentence."""
    sentence = f"{what}: {error}"
    if error.status == 404 or error.kind in _MISSING:
        return NotFound(sentence)
    if error.kind in _REPOSITORY or error.status >= 500:
        return otherwise(sentence)
    return BadInput(sentence)


def batches(names: Iterable[str], longest: int = LONGEST_PATH) -> Iterator[str]:
    """Names joined by commas for a path, so many at a time as a server's first line takes."""
    part: list[str] = []
    size = 0
    for name in names:
        text = quoted(name)
        if part and size + len(text) + 1 > longest:
            yield ",".join(part)
            part, size = [], 0
        part.append(text)
        size += len(text) + 1
    if part:
        yield ",".join(part)


def quoted(name: str) -> str:
    """A name as part of a path."""
    return quote(name, safe="")


def _checked(address: str) -> str:
    """The address as errors name it."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or "@" in address:
        # It is not repeated: it may hold a password.
        raise BadInput("An address of Elasticsearch or OpenSearch is expected, https://host:port without a user in it.")
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _parsed(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise Unreachable(f"What {name} answered is no JSON: is it behind a proxy?") from error


def _why(content: bytes) -> tuple[str, str]:
    """Type and words of an error answer: those of its innermost cause follow where they say more."""
    try:
        error = json.loads(content)["error"]
        if isinstance(error, str):
            return "", _shortened(error)
        words = [str(error.get("reason", ""))]
        cause = error
        while isinstance(cause.get("caused_by"), dict):
            cause = cause["caused_by"]
        if cause is not error:
            words.append(str(cause.get("reason", "")))
        return str(error.get("type", "")), _shortened(": ".join(word for word in words if word))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", _shortened(content.decode(errors="replace"))


def _shortened(words: str) -> str:
    text = " ".join(words.split())
    return text if len(text) <= LONGEST_WORDS else f"{text[:LONGEST_WORDS]}..."
