"""A guard's few gauges on a Prometheus endpoint of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from recovery.domain.addresses import address_of
from recovery.domain.guarding import StoreRole
from recovery.errors import BadInput
from recovery.guard.guard import Guard


class Gauges(Collector):
    """``dr_guard_*``: read at each scrape from what the guard knows; nothing is asked of a store."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        shared, region = self._guard.shared, self._guard.plan.region
        now = shared.clock()
        left = GaugeMetricFamily(
            "dr_guard_lease_seconds_left", "Seconds that the region's lease holds", labels=["region"]
        )
        left.add_metric([region], shared.holding.held.left(now))
        yield left
        unchanged = GaugeMetricFamily(
            "dr_guard_watched_seconds",
            "Seconds that another region's lease has not changed",
            labels=["region", "watched"],
        )
        for name, watched in list(self._guard.watching.watched.items()):
            unchanged.add_metric([region, name], watched.unchanged_for(now))
        yield unchanged
        companion = GaugeMetricFamily("dr_guard_companion_up", "Whether the companion lives (1=yes)", labels=["region"])
        companion.add_metric([region], float(shared.companion.lives))
        yield companion
        primary = GaugeMetricFamily(
            "dr_guard_primary", "Whether the store accepts writes here (1=yes)", labels=["region", "group", "store"]
        )
        promised = GaugeMetricFamily(
            "dr_guard_by_promise", "Whether the group stays by promise alone (1=yes)", labels=["region", "group"]
        )
        for group in list(self._guard.groups.values()):
            promised.add_metric([region, group.name], float(group.by_promise))
            for store, state in list(group.stores.states.items()):
                primary.add_metric([region, group.name, store], float(state.role is StoreRole.PRIMARY))
        yield primary
        yield promised

    @contextlib.contextmanager
    def serve(self, host: str, port: int) -> Iterator[str]:
        """Yields the endpoint's address. Raises BadInput when it cannot be listened at."""
        try:
            server, thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise BadInput(f"metrics cannot be served at {host}:{port} ({error.strerror}): name another port") from None
        try:
            yield f"http://{address_of(host, server.server_address[1])}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=2)
