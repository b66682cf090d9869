"""Errors whose message is meant for the person at the keyboard.

Everything that a user can cause (a missing folder, a damaged bundle, a full disk) is raised as an `OkkoError`: the
command prints its message and exits with 1. Any other exception is a defect of okko.
"""

from __future__ import annotations

from typing import Final

LONGEST_MESSAGE: Final = 8000


class OkkoError(Exception):
    """Something the user can mend. The message says what was found, what was expected and what to do.

    Names that others wrote stand in messages, and messages on terminals and in logs; so what is not printable is shown
    by its number, and a message has an end.
    """

    def __str__(self) -> str:
        message = super().__str__()
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]} ... ({len(message)} characters)"
        if message.isprintable():
            return message
        return "".join(
            letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
            for letter in message
        )


class BundleError(OkkoError):
    """A bundle is missing, incomplete, altered, or of a format that this version does not read."""


class SelfTestError(BundleError):
    """A bundle's model does not repeat its golden frames on this machine."""
