"""What a command works with: the configuration, a connection to Temporal, the stores; and how its work is run."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from drctl.output import CONFIG_VARIABLE, InterruptedRun
from recovery.errors import BadInput, NotFound, RecoveryError, Unreachable

if TYPE_CHECKING:
    from temporalio.client import Client

    from recovery.backup.catalogue import Catalogue
    from recovery.config import Config
    from workers.wiring import Wiring

Result = TypeVar("Result")

USUAL_PLACES = (Path("recovery.yaml"), Path("/etc/recovery-plans/recovery.yaml"))


def _nothing_further() -> str:
    return "interrupted: nothing further was done"


class _StandardError(io.TextIOBase):
    """Standard error as it is when a line is written: whoever captures it gets the line."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def run(
    work: Coroutine[Any, Any, Result],
    interrupted: Callable[[], str] = _nothing_further,
    *,
    log_form: Literal["console", "json"] = "console",
    log_level: str = "WARNING",
) -> Result:
    """Runs a command's work. Ctrl-C ends it with the words of ``interrupted`` and exit code 130.

    Logs go to standard error: standard output holds the answer and nothing else.

    Raises:
        BadInput: there is no such log level.
    """
    from recovery.telemetry.logs import configure_logs

    try:
        configure_logs(log_form, log_level, stream=_StandardError())  # type: ignore[arg-type]  # text is all it takes
    except ValueError as error:
        work.close()
        raise BadInput(f"--log-level: {error}") from None
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise InterruptedRun(interrupted()) from None


def config_file(given: Path | None) -> Path:
    """The file that was given, else the first of the usual places.

    Raises:
        BadInput: there is none.
    """
    if given is not None:
        return given
    for place in USUAL_PLACES:
        if place.is_file():
            return place
    places = " and ".join(str(place) for place in USUAL_PLACES)
    raise BadInput(
        f"there is no configuration: looked for {places}. Name one with --config or {CONFIG_VARIABLE}; "
        "recovery.example.yaml is one with comments"
    )


def load_config(given: Path | None) -> Config:
    """Raises BadInput with every mistake and its line."""
    from recovery.config import Config

    return Config.load(config_file(given))


def chosen_group(config: Config, name: str | None) -> str:
    """The group that was named, or the only one there is.

    Raises:
        NotFound: there is no such group; the known ones are listed.
        BadInput: none was named and there are several.
    """
    if name is not None:
        config.group(name)
        return name
    if len(config.groups) == 1:
        return next(iter(config.groups))
    raise BadInput(f"the configuration has several groups: say which with --group: {', '.join(config.groups)}")


def operator(given: str | None = None) -> str:
    """Who acts: as given, else the login name."""
    if given and given.strip():
        return given.strip()
    if os.environ.get("USER"):
        return os.environ["USER"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@dataclass(frozen=True)
class Session:
    """A configuration and a connection to its Temporal."""

    config: Config
    client: Client

    @property
    def address(self) -> str:
        return str(self.client.service_client.config.target_host)

    def ui_address(self, workflow_id: str, run_id: str) -> str | None:
        """Where people see this run in the Temporal UI, if the configuration says where that is."""
        base = self.config.temporal.ui_address
        if base is None:
            return None
        from urllib.parse import quote

        namespace = quote(self.config.temporal.namespace, safe="")
        return f"{base.rstrip('/')}/namespaces/{namespace}/workflows/{quote(workflow_id, safe='')}/{run_id}/history"


@contextlib.asynccontextmanager
async def session(config: Config) -> AsyncIterator[Session]:
    """Connects to Temporal; what it says while the block runs becomes one of our errors.

    Raises:
        Unreachable: nothing answers at the address.
        BadInput: the server answers and refuses, for example because the namespace does not exist.
    """
    from temporalio.service import RPCError, RPCStatusCode

    from recovery.adapters.secrets import Secrets
    from workers.client import address_of, connect

    secrets = Secrets()
    try:
        client = await connect(config, secrets)
        try:
            yield Session(config, client)
        except RPCError as error:
            where = f"Temporal at {address_of(config)}"
            if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED):
                raise Unreachable(f"{where} does not answer any more: {error}") from error
            if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
                raise BadInput(f"{where} refuses us ({error}): correct temporal.tls or temporal.api_key") from error
            if error.status is RPCStatusCode.NOT_FOUND and "amespace" in str(error):
                raise BadInput(
                    f"{where} has no namespace {config.temporal.namespace}: create it, or correct temporal.namespace"
                ) from error
            raise
    finally:
        secrets.close()


@contextlib.asynccontextmanager
async def stores(config: Config) -> AsyncIterator[Wiring]:
    """The stores of this configuration, from this machine: for looking at them, not for running steps."""
    from recovery.adapters.secrets import Secrets
    from recovery.telemetry.metrics import RecoveryMetrics
    from workers.wiring import Wiring

    secrets, metrics = Secrets(), RecoveryMetrics()
    try:
        async with Wiring(config, secrets, metrics) as wiring:
            yield wiring
    finally:
        metrics.close()
        secrets.close()


@contextlib.asynccontextmanager
async def catalogue(config: Config, group: str) -> AsyncIterator[Catalogue]:
    """The recovery points of one group."""
    async with stores(config) as wiring:
        yield await wiring.catalogue(config.snapshot(group))


async def check_point(config: Config, group: str, point_id: str) -> str | None:
    """Refuses a recovery point that does not exist before a plan is started for it.

    Returns:
        Why it could not be looked up from this machine, where that is so: then the plan's worker looks.

    Raises:
        NotFound: there is no such point; the known ones are listed.
    """
    try:
        async with catalogue(config, group) as found:
            await found.point(group, point_id)
    except NotFound as error:
        if point_id in str(error):
            raise
        return str(error)  # a secret of the store is not on this machine
    except RecoveryError as error:
        return str(error)
    return None


async def check_set(config: Config, group: str, set_id: str) -> str | None:
    """The same of a recovery set: refused before a plan is started where every location answers and none has it."""
    try:
        async with catalogue(config, group) as found:
            listed = await found.sets(group)
    except RecoveryError as error:
        return str(error)
    if any(each.set_id == set_id for each in listed.sets):
        return None
    if listed.unreachable or listed.rejected:
        return "; ".join([*listed.unreachable.values(), *listed.rejected.values()])
    known = ", ".join(each.set_id for each in listed.sets[:3]) or "none"
    raise NotFound(f"group {group} has no recovery set {set_id}: the newest are {known} (drctl backup sets)")
