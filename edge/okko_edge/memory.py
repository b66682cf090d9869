"""Asks the C library to keep little memory that nobody uses: a Pi may have 512 MB, and the agent runs for a year."""

from __future__ import annotations

import contextlib
import ctypes

# glibc's names for what `mallopt` sets (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_PIECE_BYTES = 64 << 10


def keep_little() -> None:
    """Makes freed memory go back to the system, from now on; to be called before there are threads.

    By default glibc keeps a heap for each thread, and raises the size from which memory is given back at once to that
    of the largest array it has seen: a camera's frame. Measured with all parts on: 3 MB less after 20 s, and growth of
    0.2 MB instead of 2.0 MB between marble 1,000 and 9,500. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in (
            (_ARENA_MAX, 1),
            (_TRIM_THRESHOLD, _PIECE_BYTES),
            (_MMAP_THRESHOLD, _PIECE_BYTES),
        ):
            mallopt(what, value)
