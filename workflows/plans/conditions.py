"""Pure questions that the tables of failover, switchover and reprotect ask of what is known so far."""

from temporalio import workflow

from workflows.steps import Gate

with workflow.unsafe.imports_passed_through():
    from recovery.domain.candidates import stores_of
    from recovery.domain.plan import PlanContext
    from recovery.domain.recovery_point import DataStore
    from recovery.domain.words import listed


def leaves_a_guard(context: PlanContext) -> bool:
    """Another region's guard holds the primary: it has to be fenced, and the target's guard takes the group over."""
    return context.group.guarded and context.facts.source_region != context.facts.target_region


def has_no_guard(context: PlanContext) -> bool:
    """Nobody but this run writes who owns the group."""
    return not context.group.guarded


def unguarded(context: PlanContext) -> bool:
    """A person has to vouch for the fence; Patroni is asked first whether it does, and refuses where it cannot."""
    return not context.group.guarded and context.group.managed_by != "patroni"


def pooled(context: PlanContext) -> bool:
    """Poolers stand between clients and PostgreSQL."""
    return bool(context.group.poolers)


def graceful_and_pooled(context: PlanContext) -> bool:
    return graceful(context) and pooled(context)


def returned_and_pooled(context: PlanContext) -> bool:
    return taken_back(context) and pooled(context)


def has_postgres(context: PlanContext) -> bool:
    return "postgres" in stores_of(context.group)


def has_redis(context: PlanContext) -> bool:
    return "redis" in stores_of(context.group)


def has_streams(context: PlanContext) -> bool:
    return "nats" in stores_of(context.group)


def restores_streams(context: PlanContext) -> bool:
    return _restores(context, DataStore.NATS)


def restores_redis(context: PlanContext) -> bool:
    return _restores(context, DataStore.REDIS)


def restores_search(context: PlanContext) -> bool:
    return _restores(context, DataStore.SEARCH)


def restores_further(context: PlanContext) -> bool:
    """Stores come back beside PostgreSQL. A run that an earlier version took beyond its choice goes on without them."""
    chosen = context.facts.chosen_set
    return chosen is not None and bool(chosen.further) and _goes_by_sets()


def restored_further(context: PlanContext) -> bool:
    return bool(context.facts.restored_beside)


def graceful(context: PlanContext) -> bool:
    return context.request.graceful


def taken_back(context: PlanContext) -> bool:
    """A verification failed after a switchover, and the old side is healthy and in sync."""
    return bool(context.facts.verification_failed)


def home_is_stale(context: PlanContext) -> bool:
    """The home region has to be reprotected before it can follow."""
    return context.group.home_region in (context.facts.stale_regions or [])


def needs_consent(context: PlanContext) -> bool:
    """The group asks for approvals, its policy or a store without a fence does so of runs that a monitor started, or
    data may be given up."""
    policy = context.request.automatic and context.group.failover.policy == "approve"
    return context.group.require_approval or policy or bool(lacks_fence(context)) or two_persons(context)


def lacks_fence(context: PlanContext) -> str:
    """Why a run that a monitor started must not go on by itself; empty: nothing speaks against it."""
    stores = context.facts.unfenced if context.request.automatic else None
    if not stores:
        return ""
    return f"Nothing but a person's word keeps these from a second primary: {listed(stores)}."


def consented(context: PlanContext) -> bool:
    """Whoever started it consented with it; a default that stands for a silent person vouches for no fence."""
    return context.request.approve and not lacks_fence(context)


def two_persons(context: PlanContext) -> bool:
    given_up = context.request.accept_data_loss or context.request.force
    return context.group.second_person and given_up and not _seconded(context)


def fence_confirmed(context: PlanContext) -> bool:
    return context.request.confirm_fence


def always(context: PlanContext) -> bool:
    return True


def _restores(context: PlanContext, store: DataStore) -> bool:
    chosen = context.facts.chosen_set
    return chosen is not None and chosen.wants(store) and _goes_by_sets()


def _goes_by_sets() -> bool:
    return not workflow.in_workflow() or workflow.patched("recovery sets")


def _seconded(context: PlanContext) -> bool:
    second = context.request.second_person.strip().lower()
    return bool(second) and second != context.request.requested_by.strip().lower()


MAY_MOVE = Gate("May the group's primary be fenced and another region take over?", asks=needs_consent,
                given=consented, two_persons=two_persons, because=lacks_fence)  # fmt: skip
IS_OFF = Gate("No guard can prove it: is the old primary off, and will it stay off? Look before you approve.",
              asks=always, given=fence_confirmed, only_persons=True)  # fmt: skip
