"""PostgreSQL: backup sources, servers of this machine, restore and validation.

``LocalPostgres`` is the whole of it behind the port ``PostgresRecovery``.
"""

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.postgres.host import LocalPostgresHost
from recovery.adapters.postgres.local import LocalPostgres
from recovery.adapters.postgres.unchanged import FingerprintBudget

__all__ = ["FingerprintBudget", "LocalPostgres", "LocalPostgresHost", "PostgresBinaries"]
