"""The library: domain, ports, adapters, the backup pipeline. It knows no Temporal."""

__version__ = "0.2.0"
