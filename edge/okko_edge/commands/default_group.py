"""A group of commands of which one is meant when none is named: `okko journal` is `okko journal show`."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNIT_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class DefaultGroup(click.Group):
    """A click group whose command `default` runs when the first argument names none."""

    default = ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the default command's name in front where none is given."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


class Moment(click.ParamType[float, Any]):
    """A moment: so long ago (90s, 15min, 12h, 3d), or a local date with or without time; gives seconds since 1970."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads what was typed."""
        if isinstance(value, float):
            return value
        if ago := re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", value):
            return time.time() - float(ago[1]) * _UNIT_S[ago[2]]
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is no moment; expected 90s, 15min, 12h, 3d, 2026-03-01 or 2026-03-01T14:30", param, ctx
            )


def local_time(unix_s: float) -> str:
    """Returns a moment as people here read it; as a number if no calendar has it."""
    try:
        return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s:.0f} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Returns aligned columns.

    Args:
        head: the columns' names.
        rows: what stands in them.
        right: the columns that stand to the right, such as numbers.
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
            for name, cell, width in zip(head, row, widths, strict=True)
        ).rstrip()
        for row in (head, *rows)
    )
