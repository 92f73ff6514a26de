"""Probes of one region's servers: bounded in time each by itself, and never waiting for one another."""

from recovery.adapters.probes.dns import DnsProbe
from recovery.adapters.probes.http import HttpEndpointProbe
from recovery.adapters.probes.nats import NatsLogin, NatsProbe
from recovery.adapters.probes.postgres import PostgresProbe
from recovery.adapters.probes.reach import Limits, TcpProbe
from recovery.adapters.probes.redis import RedisProbe
from recovery.adapters.probes.region import ProbesOfRegion

__all__ = [
    "DnsProbe",
    "HttpEndpointProbe",
    "Limits",
    "NatsLogin",
    "NatsProbe",
    "PostgresProbe",
    "ProbesOfRegion",
    "RedisProbe",
    "TcpProbe",
]
