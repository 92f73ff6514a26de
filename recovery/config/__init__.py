"""The configuration, ``recovery.yaml``: read, checked, and turned into what runs work with."""

from recovery.config.config import Config
from recovery.config.mistakes import ConfigurationInvalid, Mistake

__all__ = ["Config", "ConfigurationInvalid", "Mistake"]
