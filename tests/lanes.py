"""Who runs what in ``make test``: two lanes for tests with servers of their own, and one for all others.

Tests with servers wait most of the time, for leases to expire and for lost processes to be missed. Two of them at once
leave a good part of two cores idle; three would make each other late, and some of them measure time. So the last lane
takes modules that start few processes or none, then those whose servers nobody is in a hurry for, and ends when all of
them are given out; the others take what is left of them last, when one of them would else wait for the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

LIGHT = (
    "tests/contract/",
    "tests/model/",
    "tests/replay/",
    "tests/unit/",
    "tests/workflows/",
    "tests/integration/test_incremental_backups.py",
    "tests/integration/test_mutations.py",
    "tests/integration/test_nats_snapshots.py",
    "tests/integration/test_postgres_backup.py",
    "tests/integration/test_postgres_restore.py",
    "tests/integration/test_postgres_restore_logical.py",
    "tests/integration/test_redis_dumps.py",
)
PATIENT = (
    "tests/integration/test_drctl_",
    "tests/integration/test_faults_backup.py",
    "tests/integration/test_faults_restore.py",
    "tests/integration/test_lab_command.py",
    "tests/integration/test_pipeline_s3.py",
    "tests/integration/test_plans_",
    "tests/integration/test_postgres_rejoin.py",
    "tests/integration/test_postgres_validation.py",
    "tests/integration/test_readme_commands.py",
)
"""They start servers, and ask only whether something happens, not when."""
LEAST = 3
"""With fewer lanes all of them take everything."""


def is_light(module: str) -> bool:
    return module.startswith(LIGHT)


def is_patient(module: str) -> bool:
    return module.startswith(PATIENT)


def choose(waiting: Sequence[str], *, light_lane: bool) -> str:
    """The module that a lane takes next, of those that wait, in the order in which they were collected."""

    def rank(module: str) -> int:
        if is_patient(module):
            return 1
        return 0 if is_light(module) is light_lane else 2

    return min(waiting, key=rank)


class Lanes(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """Modules stay whole, as in ``--dist loadfile``."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        chosen = choose(list(self.workqueue), light_lane=self._is_light_lane(node))
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self._is_light_lane(node) and not any(is_light(module) or is_patient(module) for module in self.workqueue):
            if not node.shutting_down:
                node.shutdown()  # else it would wait with its last test for another one
            return
        super()._reschedule(node)

    def _is_light_lane(self, node: WorkerController) -> bool:
        """The last of the lanes that the run began with."""
        return self.numnodes >= LEAST and bool(node.gateway.id == f"gw{self.numnodes - 1}")
