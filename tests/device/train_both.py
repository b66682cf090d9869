"""Trains the sample bundle twice, so that float32 and int8 can both be tried on other processors.

`okko train` ships the better of the two; here the choice is made for it, and everything else is the product's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from packages import REPOSITORY

PHOTOS = REPOSITORY / "train/samples/marbles/one_rig"


def train(precision: str, out: Path) -> Path:
    """Trains a bundle that ships as "float32" or "int8" into `out`, unless it is there; returns `out`."""
    if out.is_dir():
        return out
    from okko_train import training
    from okko_train.variants import Measured

    def choose(float32: Measured, int8: Measured) -> Measured:
        return {"float32": float32, "int8": int8}[precision]

    training.choose = choose
    out.parent.mkdir(parents=True, exist_ok=True)
    sys.argv = ["okko", "train", str(PHOTOS), "-o", str(out), "--workers", "1"]
    from okko.cli import main

    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
    return out


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]))
