"""A guard's word that a store of its region may be written into. Nothing else writes into what a guard made primary."""

from __future__ import annotations

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GuardStatus, StoreRole
from recovery.errors import RecoveryError, Refused, Unreachable
from recovery.ports.guard import Guards


async def demand_permission(guards: Guards, group: GroupSnapshot, region: str, store: str) -> None:
    """Returns where no guard keeps the group, or the region's guard says that the store is its primary now.

    Raises:
        Refused: it says something else, or knows nothing of it. Unreachable: it does not answer.
    """
    if not group.guarded:
        return
    ours = f"{store} of {group.name} in {region} stands under a guard"
    try:
        status = await guards.status(region, group.name)
    except Unreachable as error:
        raise Unreachable(f"{ours}, which does not say that it may be written into: {error}") from error
    except RecoveryError as error:
        raise Refused(f"{ours}, which does not say that it may be written into: {error}") from error
    if reason := _hindrance(status, group.name, region, store):
        raise Refused(f"{ours}, and may not be written into: {reason}")


def _hindrance(status: GuardStatus, group: str, region: str, store: str) -> str:
    """Empty where there is none."""
    found = next((each for each in status.groups if each.group == group), None)
    state = next((each for each in found.stores if each.store == store), None) if found else None
    if found is None or state is None:
        return "its guard knows nothing of it"
    if found.owner != region:
        return f"{found.owner or 'no region'} owns the group, and {store} here is {state.role.value}: restore there"
    if state.role is not StoreRole.PRIMARY:
        return f"its guard says that it is {state.role.value} {state.detail}".rstrip()
    if not (status.holds_lease or status.by_promise):
        return "its guard holds no lease now"
    return ""
