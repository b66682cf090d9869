"""The one configuration file: finding, reading and judging it, and explaining its keys.

The keys are those of `okko_edge.settings`; nothing here is known twice. `load` is what a command calls.
"""

from okko_edge.config.reading import ConfigError, Loaded, find, load, read
from okko_edge.config.rules import Finding, contradictions, missing

__all__ = ["ConfigError", "Finding", "Loaded", "contradictions", "find", "load", "missing", "read"]
