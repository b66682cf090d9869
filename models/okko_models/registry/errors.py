"""What can go wrong with a registry, told apart by what to do next."""

from __future__ import annotations

from okko_models.errors import OkkoError


class RegistryError(OkkoError):
    """Something about a registry that a person has to look at."""


class OfflineError(RegistryError):
    """The registry cannot be reached, or is too slow, now; later it may."""


class MissingError(RegistryError):
    """The registry answers, but what was asked for is not there."""


class UntrustedError(RegistryError):
    """What the registry gave is not what its keys have signed, or is older than what was seen before."""


class ExpiredError(UntrustedError):
    """The newest signatures are too old to install anything by; what runs may go on running."""


class ConflictError(RegistryError):
    """Somebody else changes the registry at the same time; trying again helps."""


class BusyError(RegistryError):
    """Another process uses the same folder."""
