"""Reading JSON that may be damaged: by a worn-out card, a lost power supply, or somebody.

msgspec says `DecodeError` of nearly everything that is wrong, but `UnicodeDecodeError` of a text that is not UTF-8 and
`RecursionError` of brackets without end; whoever expects damage wants one error for all of it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def decode_json(data: bytes, kind: type[_T]) -> _T:
    """Reads JSON.

    Args:
        data: what may be JSON.
        kind: the type that is expected, as `msgspec.json.decode` takes it.

    Raises:
        msgspec.DecodeError: it is not JSON, or of another shape.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"JSON is damaged: {error}") from error
