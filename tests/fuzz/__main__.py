"""`python -m tests.fuzz`: feeds spoiled inputs to all targets in child processes and prints what came of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from tests.fuzz.targets import PLANS
from tests.fuzz.watching import HANGS_S, Tally, fuzz


@click.command()
@click.option("--inputs", type=click.IntRange(1), default=2000, show_default=True, help="Of all targets together.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--only", type=click.Choice(list(PLANS)), multiple=True, help="These targets alone.")
@click.option("--first", type=click.IntRange(0), default=0, help="Number of the first input, to repeat one.")
@click.option("--keep", type=click.Path(file_okay=False), default="", help="Folder for inputs that show a defect.")
def main(inputs: int, seed: int, only: tuple[str, ...], first: int, keep: str) -> None:
    """Spoil everything that a device reads, and see that it says no in words."""
    if keep:
        Path(keep).mkdir(parents=True, exist_ok=True)
    plans = [plan for plan in PLANS.values() if not only or plan.name in only]
    shares = sum(plan.share for plan in plans)
    begun_s, tallies = time.monotonic(), []
    for plan in plans:
        count = -(-inputs * plan.share // shares)
        tally = fuzz(plan.name, seed, range(first, first + int(count)), keep=str(Path(keep).resolve()) if keep else "")
        tallies.append(tally)
        for number, why in tally.defects:
            click.echo(f"\n{plan.name} {number}: {why}", err=True)
    click.echo(table(tallies, seed, time.monotonic() - begun_s))
    sys.exit(1 if any(tally.defects for tally in tallies) else 0)


def table(tallies: list[Tally], seed: int, wall_s: float) -> str:
    """Returns the result as Markdown."""
    rows = ["| target | inputs | accepted | refused | defects | slowest, s | peak, MB |", "|---|" + "---:|" * 6]
    for tally in tallies:
        plan, refused = PLANS[tally.name], tally.refused.total()
        rows.append(
            f"| {tally.name} | {tally.inputs:,} | {tally.accepted:,} | {refused:,} | {len(tally.defects)} "
            f"| {tally.slowest_s:.2f} of {plan.processor_s:g} | {tally.peak_mb:.0f} of {plan.memory_mb} |"
        )
    total = sum(tally.inputs for tally in tallies)
    rows += [
        "",
        f"{total:,} inputs with seed {seed} in {wall_s / 60:.1f} min on {os.cpu_count()} processors; a hang is "
        f"{HANGS_S:.0f} s of wall time. Refused, by the error and the module that raised it:",
        "",
    ]
    for tally in tallies:
        kinds = ", ".join(f"{why} {count:,}" for why, count in tally.refused.most_common())
        rows.append(f"- {tally.name}: {kinds or 'none'}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
