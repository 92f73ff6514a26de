"""Where recovery points are kept and whose signatures count: all that listing them takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recovery.config.config import Config
from recovery.config.locations import Location
from recovery.config.mistakes import ConfigurationInvalid, explain
from recovery.config.names import Name, Signer
from recovery.config.yaml_source import read_document
from recovery.errors import BadInput


@dataclass(frozen=True)
class Places:
    """``groups``: those the file names, each with the locations that its points are to be at; others may be found.

    ``left_out``: why nothing but locations and signers could be used of the file; empty where all of it could.
    """

    locations: dict[str, Location]
    signers: list[str]
    groups: dict[str, list[str]] = field(default_factory=dict)
    left_out: str = ""
    from_file: bool = True


class _Signers(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    trusted_signers: list[Signer] = Field(min_length=1)


class _Rest(BaseModel):
    """What a file has to hold at least; whatever else stands there may be wrong or missing."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    keys: _Signers
    locations: dict[Name, Location] = Field(min_length=1)


def read_places(path: Path) -> Places:
    """Of a whole configuration, or of one with nothing right in it but ``locations`` and ``keys.trusted_signers``.

    Raises:
        BadInput: it cannot be read, or not even these two are right: with all mistakes of the file.
    """
    try:
        config = Config.load(path)
    except ConfigurationInvalid as invalid:
        return _of_the_rest(path, invalid)
    if not config.keys.trusted_signers:
        raise BadInput(f"{path}, keys.trusted_signers: expected a public key, since nothing unsigned is believed")
    groups = {name: list(config.locations_of(name)) for name in config.groups}
    return Places(dict(config.locations), list(config.keys.trusted_signers), groups)


def _of_the_rest(path: Path, invalid: ConfigurationInvalid) -> Places:
    data: Any = read_document(path.read_text(encoding="utf-8")).data
    try:
        rest = _Rest.model_validate(data)
    except ValidationError:
        rest = None
    if rest is None:  # raised here, so that pydantic's error, which knows the values, is not chained to it
        raise invalid
    first = invalid.mistakes[0].sentence(path.name) if invalid.mistakes else ""
    more = f", and {len(invalid.mistakes) - 1} more" if len(invalid.mistakes) > 1 else ""
    return Places(dict(rest.locations), list(rest.keys.trusted_signers), left_out=f"{first}{more}")


def place_of(url: str, *, endpoint: str | None, region: str | None, ca_file: str | None) -> Location:
    """A location as the command line names it. Its credentials are the machine's own.

    Raises:
        BadInput: what is wrong with it.
    """
    given = {"endpoint": endpoint, "region": region, "ca_file": ca_file}
    try:
        return Location.model_validate({"url": url, **{key: value for key, value in given.items() if value}})
    except ValidationError as error:
        found = [explain(Location, each) for each in error.errors(include_url=False)]
    options = {"url": "URL", "endpoint": "--endpoint", "region": "--region", "ca_file": "--ca-file"}
    raise BadInput("; ".join(f"{options.get(str((*path, '')[0]), 'URL')}: {text}" for path, text in found))


def signers_of(texts: list[str]) -> list[str]:
    """Public keys as the command line names them. Raises BadInput."""
    try:
        return _Signers(trusted_signers=texts).trusted_signers
    except ValidationError:
        pass
    raise BadInput(
        "--signer: expected an Ed25519 public key, ed25519: and 44 base64 characters, as keys.trusted_signers has it"
    )
