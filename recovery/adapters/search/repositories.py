"""Snapshot repositories: registered, compared with what is registered already, tried by every node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recovery.adapters.search.connection import SearchConnection, ServerSaid, judged, quoted
from recovery.domain.search import SearchSource, names_a_secret
from recovery.errors import BadInput, NotFound, Refused
from recovery.ports.search import SearchRepository

VERIFY_SECONDS = 60.0
_PLACES = ("bucket", "container", "url", "base_path", "location")
_PACES = ("max_snapshot_bytes_per_sec", "max_restore_bytes_per_sec", "readonly")  # are each cluster's own
_TYPES = {
    "s3": "Install the plugin repository-s3 on every node",
    "fs": "Name the folder in path.repo of every node",
}


async def register(connection: SearchConnection, repository: SearchRepository, replace: bool) -> list[str]:
    return await _register(connection, repository.name, _definition(repository), replace)


async def attach(connection: SearchConnection, source: SearchSource, name: str) -> str:
    wanted = _place(source.repository_type, source.repository_settings)
    for known in (source.repository, name):
        found = await _registered(connection, known)
        if found is not None and _place(found["type"], found["settings"]) == wanted:
            return known
    settings = {key: value for key, value in source.repository_settings.items() if key not in _PACES}
    await _register(connection, name, {"type": source.repository_type, "settings": settings | {"readonly": "true"}})
    return name


async def definition(connection: SearchConnection, name: str) -> tuple[str, dict[str, str]]:
    """Type and settings of a repository, without what may be a secret. Raises NotFound."""
    found = await _registered(connection, name)
    if found is None:
        raise NotFound(f"{connection.name} has no snapshot repository {name}: register it first.")
    settings = {key: str(value) for key, value in found["settings"].items() if not names_a_secret(key)}
    return str(found["type"]), settings


async def _register(connection: SearchConnection, name: str, body: dict[str, Any], replace: bool = False) -> list[str]:
    found = await _registered(connection, name)
    if found is not None:
        differing = _differences(found, body)
        if not differing:
            return await verify(connection, name)
        if not replace:
            raise Refused(
                f"{connection.name} has a repository {name} already, and it is another one:"
                f" {'; '.join(differing)}. Say replace, or take another name."
            )
    try:
        await connection.ask("PUT", _path(name), body, seconds=VERIFY_SECONDS, verify=False)
    except ServerSaid as error:
        advice = _TYPES.get(body["type"], "Install its plugin on every node")
        raise BadInput(f"{connection.name} cannot use repository {name}: {error}. {advice}.") from error
    return await verify(connection, name)


async def verify(connection: SearchConnection, name: str) -> list[str]:
    try:
        answer = await connection.ask("POST", f"{_path(name)}/_verify", seconds=VERIFY_SECONDS)
    except ServerSaid as error:
        raise judged(error, f"Repository {name} of {connection.name} failed its trial") from error
    return sorted(str(node["name"]) for node in answer["nodes"].values())


async def check_registered(connection: SearchConnection, name: str, *, to_write: bool) -> None:
    """Raises NotFound, or Refused where it is to be written to and is registered as read-only."""
    _, settings = await definition(connection, name)
    if to_write and settings.get("readonly", "false") == "true":
        raise Refused(
            f"Repository {name} is registered as read-only at {connection.name}: another cluster writes to it, and two"
            " would damage it. Take the snapshot there, or register the repository anew once the other one is gone."
        )


async def _registered(connection: SearchConnection, name: str) -> dict[str, Any] | None:
    answer = await connection.found("GET", _path(name))
    return None if answer is None else answer[name]


def _path(name: str) -> str:
    return f"/_snapshot/{quoted(name)}"


def _definition(repository: SearchRepository) -> dict[str, Any]:
    named = [key for key in repository.settings if names_a_secret(key)]
    if named:
        raise BadInput(
            f"Repository {repository.name} is to get {', '.join(named)}: everybody who may read the cluster's settings"
            " would see it. Put credentials into the nodes' keystores (s3.client.default.access_key and secret_key)."
        )
    settings = {name: str(value) for name, value in repository.settings.items()}
    if repository.type == "fs":
        settings |= {"location": repository.place}
    else:
        settings |= {"bucket": repository.place, "client": repository.client}
        settings |= {"base_path": repository.base_path} if repository.base_path else {}
    settings |= {"readonly": "true"} if repository.readonly else {}
    return {"type": repository.type, "settings": settings}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    differing = [] if found["type"] == wanted["type"] else [f"its type is {found['type']}, not {wanted['type']}"]
    # A server adds none of its own; these two are what leaving them out means.
    there = {"readonly": "false", "client": "default"} | {key: str(value) for key, value in found["settings"].items()}
    here = {"readonly": "false", "client": "default"} | wanted["settings"]
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            values = (
                "another value" if names_a_secret(key) else f"{there.get(key, 'unset')}, not {here.get(key, 'unset')}"
            )
            differing.append(f"its {key} is {values}")
    return differing


def _place(kind: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two registrations the same repository."""
    return (kind, *(str(settings.get(key, "")).strip("/") for key in _PLACES))
