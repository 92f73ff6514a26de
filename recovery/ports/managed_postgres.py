"""PostgreSQL that a provider runs, as far as a recovery needs its API."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from recovery.domain.group import GroupSnapshot
from recovery.domain.managed import ManagedEvent, ManagedInstance, ManagedSnapshot, RestoreManaged
from recovery.domain.recovery_point import CheckResult


class ManagedPostgres(Protocol):
    """Orders return when the provider accepted them, which is long before they are carried out: look at ``instance``.

    All methods raise ``Unreachable`` (no answer, throttled; or the instance is in a state that passes), ``Refused``
    (credentials, or the provider forbids it for good) and ``BadInput``; orders also ``NotFound``.
    """

    async def instance(self, region: str, name: str) -> ManagedInstance | None:
        """The instance as it is now; None where the region has none of that name."""
        ...

    async def events(self, region: str, name: str, since: timedelta) -> list[ManagedEvent]:
        """What the provider noted about the instance, newest first."""
        ...

    async def snapshots(self, region: str, instance: str) -> list[ManagedSnapshot]:
        """Snapshots of that instance in that region, newest first."""
        ...

    async def promote(self, region: str, name: str) -> None:
        """Makes a read replica a primary of its own. Repeated, it changes nothing."""
        ...

    async def restore(self, order: RestoreManaged) -> None:
        """Starts a new instance. Repeated with the same mark, it changes nothing.

        Raises:
            NotOurs: there is an instance of that name without the mark.
        """
        ...

    async def remove(self, region: str, name: str, mark: str) -> bool:
        """Deletes the instance, without a last snapshot, if it carries the mark; False when there is none.

        Raises:
            NotOurs: it does not carry the mark.
        """
        ...

    async def set_security_groups(self, region: str, name: str, groups: list[str]) -> None: ...

    async def reboot(self, region: str, name: str) -> None:
        """Ends all sessions, with those that a firewall tracks already and so lets go on."""
        ...

    async def stop(self, region: str, name: str) -> None: ...

    async def start(self, region: str, name: str) -> None: ...


class ManagedSnapshots(Protocol):
    """Snapshots that are recovery points, and instances that were restored from them. ``tags`` say whose a snapshot is.

    Orders return when the provider accepted them. All methods raise as ``ManagedPostgres`` does.
    """

    async def snapshot(self, region: str, name: str) -> ManagedSnapshot | None:
        """The snapshot as it is now; None where the region has none of that name."""
        ...

    async def take(self, region: str, instance: str, name: str, tags: dict[str, str]) -> None:
        """Begins a snapshot. Where an earlier attempt did, it changes nothing.

        Raises:
            NotFound: no such instance. Refused: the account may have no more snapshots. Unreachable: the instance is
            busy.
        """
        ...

    async def copy(self, taken: ManagedSnapshot, region: str, tags: dict[str, str], kms_key: str | None) -> None:
        """Begins a copy of the same name in another region, with the snapshot's tags and these. Where an earlier
        attempt did, it changes nothing."""
        ...

    async def delete(self, region: str, name: str, tags: dict[str, str]) -> bool:
        """False when there is none. Raises NotOurs: it does not carry all of the tags. Unreachable: not yet, for it is
        being made."""
        ...

    async def of_points(self, region: str, group: str) -> list[ManagedSnapshot]:
        """All snapshots that are recovery points of the group by their name and tags."""
        ...

    async def account(self, region: str) -> str | None:
        """Whose snapshots and instances the region shows; None: it shows none at all."""
        ...

    async def restored(self, region: str, mark: str) -> list[ManagedInstance]:
        """Instances that were restored by us and whose mark begins so."""
        ...

    async def take_on(self, instance: ManagedInstance, attempt: str) -> None:
        """Has the instance say that this attempt goes on with it, and none that did before."""
        ...

    async def note_opened(self, instance: ManagedInstance, mark: str) -> None:
        """Has the instance say that clients were let in by the restore with this mark."""
        ...


class ManagedReader(Protocol):
    async def log_in(self, group: GroupSnapshot, region: str, host: str, port: int) -> None:
        """As the group's user for backups. Raises Unreachable: nobody answers. Refused: the user is not let in."""
        ...

    async def contents(self, group: GroupSnapshot, region: str, host: str, port: int) -> list[CheckResult]:
        """Reads every table of every database to its end, as the group's user for backups.

        Raises Unreachable: nobody answers. Refused: the user is not let in, or may not read everything. RestoreFailed:
        a database cannot be opened.
        """
        ...


class ManagedProbe(Protocol):
    """Logs in to a server as the group's users do. ``region`` says whose user and password."""

    async def write(self, group: GroupSnapshot, region: str, host: str, port: int, run_id: str) -> datetime:
        """Commits one row as a client would and returns the server's time of the commit."""
        ...

    async def replayed_until(self, group: GroupSnapshot, region: str, host: str, port: int) -> datetime | None:
        """The last commit that a read replica has replayed; None when it replayed none since its start."""
        ...

    async def tables(self, group: GroupSnapshot, region: str, host: str, port: int) -> list[CheckResult]:
        """For each critical table of the group, whether it is there and can be read."""
        ...
