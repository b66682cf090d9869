"""Errors whose message is meant for the person at the keyboard.

Everything that a user can cause (a missing folder, a damaged bundle, a full disk) is raised as an `OkkoError`: the
command prints its message and exits with 1. Any other exception is a defect of okko.
"""

from __future__ import annotations


class OkkoError(Exception):
    """Something the user can mend. The message says what was found, what was expected and what to do."""


class BundleError(OkkoError):
    """A bundle is missing, incomplete, altered, or of a format that this version does not read."""


class SelfTestError(BundleError):
    """A bundle's model does not repeat its golden frames on this machine."""
